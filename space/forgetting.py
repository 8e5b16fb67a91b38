"""What Gradio would keep of visitors, and forgets here.

Gradio makes its queue and its holder of states by itself, and lets nobody else do so: they are taken over when it has.
"""

import asyncio
import sys
from collections.abc import Iterable
from copy import copy

from gradio import queueing, state_holder
from gradio.server_messages import ProcessCompletedMessage


MAX_UNREAD_BYTES = 256 << 20
UNREAD_SECONDS = 300
MAX_PAGE_NAME = 100  # characters; browsers and clients of Gradio take 36 at most
NAMELESS = f"The name of a session has more than {MAX_PAGE_NAME} characters."


class Stateless(state_holder.StateHolder):
    """For every request the state of the page as it was built, on its own.

    By itself, Gradio keeps all that the last pages show, pictures included, and forgets the oldest for the sake of
    new ones. What matters of a visitor is in `Sessions`.
    """

    as_built: "State | None"

    @classmethod
    def take_over(cls, holder: state_holder.StateHolder):
        """Make one of a holder of Gradio's that nobody has asked yet."""
        holder.__class__ = cls
        assert isinstance(holder, cls)
        holder.as_built = None

    def __getitem__(self, page: str) -> "State":
        """Whatever page it is."""
        if self.as_built is None:
            self.as_built = State(self.blocks)
        state = copy(self.as_built)
        state.blocks_config = copy(self.as_built.blocks_config)
        return state


class State(state_holder.SessionState):
    """What the controls are while a request is answered; what they show is noted nowhere."""

    def __setitem__(self, key, block):
        self.blocks_config.blocks[key] = block

    def _update_config(self, key):
        pass

    def _update_value_in_config(self, key, value):
        pass


class Queue(queueing.Queue):
    """Gradio's queue, which by itself keeps unread answers of 2,000 pages, however large and old they are.

    Here it is those of any number of pages, so that nobody who waits is forgotten for others' sake, but the oldest go
    where all together are too large, and each goes with its page some minutes after it. All of it runs in the one
    thread of Gradio's event loop. Who asked for what and when, 10,000 times, of which Gradio makes statistics after
    each answer, is not noted at all.

    Attributes:
        unread: page → size of its answers, oldest first; pages that have fetched theirs go with the next answer.
        last_heard: page → when it last asked or was answered, in seconds of the event loop.
    """

    unread: dict[str, int]
    last_heard: dict[str, float]

    @classmethod
    def take_over(cls, queue: queueing.Queue):
        """Make one of a queue of Gradio's in which nobody waits yet."""
        queue.__class__ = cls
        queue.pending_messages_per_session.max_size = sys.maxsize
        queue.ANALYTICS_MAX_EVENTS = 0
        assert isinstance(queue, cls)
        queue.unread = {}
        queue.last_heard = {}

    async def push(self, body, request, username):
        """Let a request wait for its turn."""
        if len(body.session_hash or "") > MAX_PAGE_NAME:
            return False, NAMELESS, "error"
        pushed = await super().push(body, request, username)
        self._forget_later(body.session_hash)
        return pushed

    def send_message(self, event, event_message):
        """Let an answer, or a word about how far it is, wait for the page that asked."""
        if not isinstance(event_message, ProcessCompletedMessage):
            return super().send_message(event, event_message)
        page, size, pending = event.session_hash, size_of(event_message.output), self.pending_messages_per_session
        self.unread = {
            page: size for page, size in self.unread.items() if page in pending and not pending[page].empty()
        }
        while self.unread and sum(self.unread.values()) + size > MAX_UNREAD_BYTES:
            oldest = next(iter(self.unread))
            del self.unread[oldest]
            while not pending[oldest].empty():
                pending[oldest].get_nowait()
        super().send_message(event, event_message)
        # The page goes to the end, as the one with the newest answer.
        self.unread[page] = self.unread.pop(page, 0) + size
        self._forget_later(page)

    def _forget_later(self, page: str):
        loop = asyncio.get_running_loop()
        self.last_heard[page] = loop.time()
        loop.call_later(UNREAD_SECONDS, self._forget, page)

    def _forget(self, page: str):
        """Forget a page, unless it has asked or was answered meanwhile, or waits: then its answer comes here again."""
        is_quiet = asyncio.get_running_loop().time() - self.last_heard.get(page, 0) >= UNREAD_SECONDS
        if is_quiet and not any(event.session_hash == page for event in self.event_ids_to_events.values()):
            self.last_heard.pop(page, None)
            self.pending_messages_per_session.pop(page, None)
            self.pending_event_ids_session.pop(page, None)


def size_of(value: object) -> int:
    """Characters of all text in what JSON can hold, about; a number counts as one of eight."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = (*value, *value.values())
    return sum(map(size_of, value)) if isinstance(value, Iterable) else 8
