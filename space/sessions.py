"""What the server knows of its visitors, each known by the page in front of them.

A `Session` is all of one visitor's state. It never changes: a step (`ask`, `choose`, `show`, `fail`, `clear`, `adopt`,
`change`, `amend`) makes the next one of it, and `Sessions` takes one step at a time. Nothing else keeps anything of a
visitor.

Requests overtake each other on their way and while they are answered. Pages therefore number what their visitors do
(scripts/page.js); of two such moments the later one wins, whichever is ready first, and a step that comes too late
changes nothing.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

from .studies import Settings, Study


DEFAULTS = Settings()


@dataclass(frozen=True, eq=False)
class Session:
    """One visitor's state.

    Attributes:
        study: what the page shows; None before the first choice, and after the page is cleared.
        settings: the newest that were asked for.
        asked_at: moment of those.
        chosen_at: moment of the newest choice of files or an example, which may still be read.
        shown_at: moment of the last choice that is not waited for any more.
        changed_at: moment of the newest change of the study.
    """

    study: Study | None = None
    settings: Settings = DEFAULTS
    asked_at: int = 0
    chosen_at: int = 0
    shown_at: int = 0
    changed_at: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no study, and none on its way."""
        return self.study is None and self.shown_at == self.chosen_at

    def ask(self, settings: Settings, moment: int) -> "Session":
        """With other settings."""
        return self if moment < self.asked_at else replace(self, settings=settings, asked_at=moment)

    def choose(self, moment: int) -> "Session":
        """Waiting for a choice that is being read; until it is there, the study stays."""
        return self if moment < self.chosen_at else replace(self, chosen_at=moment)

    def show(self, study: Study, settings: Settings, moment: int) -> "Session":
        """With the study that was chosen, if it was drawn by the newest settings."""
        if moment < self.chosen_at or settings != self.settings:
            return self
        return replace(self, study=study, chosen_at=moment, shown_at=moment, changed_at=max(moment, self.changed_at))

    def fail(self, moment: int) -> "Session":
        """Not waiting any more: the study that was there stays, as it does on the page."""
        return self if moment < self.chosen_at else replace(self, chosen_at=moment, shown_at=moment)

    def clear(self, moment: int) -> "Session":
        """Without a study."""
        return self if moment < self.chosen_at else replace(self, study=None, chosen_at=moment, shown_at=moment)

    def adopt(self, study: Study) -> "Session":
        """With a study that the page shows already, if nothing else is known of it."""
        return self if self.study else replace(self, study=study)

    def change(self, change: Callable[[Study], Study], moment: int) -> "Session":
        """With the study as it is after a change."""
        if self.study is None or moment < self.changed_at:
            return self
        return replace(self, study=change(self.study), changed_at=moment)

    def amend(self, change: Callable[[Study], Study]) -> "Session":
        """With the study after a change of a part of it that has a moment of its own."""
        return replace(self, study=change(self.study)) if self.study else self


class Sessions:
    """The sessions of all visitors. Room is made by what has waited longest: sessions without a study go first.

    Args:
        max_bytes: of all studies together; the newest one is kept however large it is.
        max_seconds: after its study was opened or changed, a session is kept for so long.
        max_count: of all sessions.
    """

    def __init__(self, max_bytes: int, max_seconds: float, max_count: int):
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.max_count = max_count
        self._kept: OrderedDict[str | None, tuple[float, Session]] = OrderedDict()  # oldest first
        self._lock = Lock()

    def get(self, page: str | None) -> Session:
        """The session of a page; an empty one if nothing is known of it (any more)."""
        return self.take(page, lambda session: session)

    def take(self, page: str | None, step: Callable[..., Session], *arguments: object) -> Session:
        """Take one step of a session, such as `Session.ask`, and return what it is then."""
        with self._lock:
            self._make_room()
            since, session = self._kept.get(page, (time.monotonic(), Session()))
            taken = step(session, *arguments)
            if taken is not session:
                is_other_study = taken.study is not session.study
                self._kept[page] = (time.monotonic() if is_other_study else since, taken)
                if is_other_study:
                    self._kept.move_to_end(page)
                self._make_room()
        return taken

    def make_room(self):
        """Forget what has been kept for too long; what is too much is forgotten as it comes."""
        with self._lock:
            self._make_room()

    def _make_room(self):
        kept = self._kept
        while kept and time.monotonic() - next(iter(kept.values()))[0] > self.max_seconds:
            kept.popitem(last=False)
        studies = [(page, session.study.nbytes) for page, (_, session) in kept.items() if session.study]
        excess = sum(size for _, size in studies) - self.max_bytes
        for page, size in studies[:-1]:
            if excess <= 0:
                break
            since, session = kept[page]
            kept[page] = since, replace(session, study=None)
            excess -= size
        while len(kept) > self.max_count:
            oldest = next(iter(kept))
            del kept[next((page for page, (_, session) in kept.items() if session.is_empty), oldest)]
