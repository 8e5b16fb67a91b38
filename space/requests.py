"""Checks of requests: a parameter that is missing or has a wrong type is refused in one sentence.

The page itself sends correct requests, but other programs can send anything.
"""

import errno
import json
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.route_utils import FnIndexInferError, MultiPartException
from gradio.routes import JSONResponse  # FastAPI's, which comes with Gradio
from gradio.utils import get_upload_folder

from modeling_unet import InvalidImageError
from modeling_unet.volumes.archives import TOO_MANY_OPEN

from .forgetting import Queue, Stateless
from .sessions import Sessions


# As ASGI has them.
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# Of the body of a request: what names as many files as the page takes at a time, and one such file with its headers.
MAX_BODY_BYTES = 1 << 20
MAX_UPLOAD_BYTES = 130 << 20
UPLOAD = "/gradio_api/upload"
TOO_LONG = json.dumps({"detail": f"The request is too long; at most {MAX_BODY_BYTES:,} bytes are accepted."}).encode()
JSON = [(b"content-type", b"application/json")]
UPLOAD_TOO_LONG = (
    f"Files exceeded maximum allowed size of {MAX_UPLOAD_BYTES >> 20} MiB for one request; send them one by one."
)

MAX_NAME_SHOWN = 100
MAX_SENTENCE = 200
WRONG_TYPE = "A parameter of this request is missing, or has another type or value than the API page says."
NO_FUNCTION = "There is no such function; the API page lists those that there are."
BUSY = "The server is busy and has no room for more files; please try again in a minute."
USED_UP = (*TOO_MANY_OPEN, errno.ENOSPC, errno.ENOMEM)


def refusal(sentence: str) -> gr.Error:
    """An error of the visitor's request: it stays on the page until it is closed, and is not logged."""
    return gr.Error(sentence, duration=None, print_exception=False)


class ShortBodies:
    """ASGI middleware that refuses the bodies of requests that are too long, by what arrives and not by what they say.

    To parse one takes the server's own thread and many times its length.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Callable):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") == UPLOAD:
            await self.app(scope, _counted(receive), send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Callable):
        """Read all of the body before anything is made of it."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                await _pass_over(receive, message)
                await send({"type": "http.response.start", "status": 413, "headers": JSON})
                await send({"type": "http.response.body", "body": TOO_LONG})
                return
        waiting = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def repeat() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, repeat, send)


def _counted(receive: Receive) -> Receive:
    """For the upload, which writes files down as they come, but keeps the fields of a form."""
    count = 0

    async def counting() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > MAX_UPLOAD_BYTES:
            await _pass_over(receive, message)
            # Gradio answers it with 413 if it speaks of a "maximum allowed size", and deletes what has come.
            raise MultiPartException(UPLOAD_TOO_LONG)
        return message

    return counting


async def _pass_over(receive: Receive, message: Message):
    """Let the rest of a body go by: who is not heard to the end does not listen to the answer."""
    while message.get("more_body"):
        message = await receive()


class Page(gr.Blocks):
    """Blocks that check parameters before any listener sees them, and keep nothing of visitors by themselves.

    Attributes:
        sessions: what is kept of them.
    """

    sessions: Sessions

    def forget(self):
        """Let go of what is old; called now and then, also when nobody comes."""
        self.sessions.make_room()
        for files in self.temp_file_sets:  # only Gradio's own sweep would ever shorten them
            files.clear()

    def queue(self, *arguments, **options):
        """As in Gradio, with answers that wait within bounds."""
        super().queue(*arguments, **options)
        Queue.take_over(self._queue)
        return self

    @property  # type: ignore[override] # Gradio has a plain attribute
    def state_holder(self) -> Stateless:
        """Where Gradio looks for the state of a page."""
        return self._state_holder

    @state_holder.setter
    def state_holder(self, holder):
        Stateless.take_over(holder)
        self._state_holder = holder

    async def preprocess_data(self, block_fn, inputs, *arguments, **options):
        """As in Gradio, but with a sentence for the visitor instead of a traceback in the log."""
        if not block_fn.fn:
            raise refusal(NO_FUNCTION)
        try:
            return await super().preprocess_data(block_fn, inputs, *arguments, **options)
        except gr.Error as error:
            # Gradio repeats the value.
            raise refusal(error.message if len(error.message) < MAX_SENTENCE else WRONG_TYPE) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise refusal(WRONG_TYPE) from None
            raise
        # Any error of Gradio or pydantic.
        except Exception:
            raise refusal(WRONG_TYPE) from None


async def no_such_function(request, error: Exception) -> JSONResponse:
    """The answer to a request for a function that the page does not have."""
    if traceback.extract_tb(error.__traceback__)[-1].name != "get_fn":
        raise error
    return JSONResponse({"detail": NO_FUNCTION}, status_code=404)


# For FastAPI.
EXCEPTION_HANDLERS = {KeyError: no_such_function, FnIndexInferError: no_such_function}


def uploaded(file: object) -> Path:
    """Path of the file that came with a request; one that only names another file of the server is refused."""
    if not (isinstance(file, dict) and isinstance(file.get("path"), str)):
        raise InvalidImageError("image: no file was given; give one MRI slice.")
    path = Path(file["path"])
    try:
        path = path.resolve()
        found = path.is_relative_to(Path(get_upload_folder()).resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise InvalidImageError(f"{path.name[:MAX_NAME_SHOWN]}: the file was not uploaded.")
    return path


def all_uploaded(files: object) -> list[Path]:
    """The same for one or more files."""
    if not isinstance(files, list) or not files:
        raise InvalidImageError("files: no file was given; give a list of MRI slices, or of archives of them.")
    return [uploaded(file) for file in files]


def said(event: gr.EventData, name: str) -> object:
    """The value of a name in an event's data; None if it has none."""
    try:
        return getattr(event, name, None)
    except TypeError:  # Gradio takes any JSON for the data of an event
        return None


def whole(number: object) -> int:
    """A whole number, for sure."""
    if type(number) is not int:
        raise ValueError(WRONG_TYPE)
    return number


class Mark(NamedTuple):
    """What a page says of itself with every request (scripts/page.js).

    Attributes:
        moment: when its visitor did something, by the count of the page.
        shown: what is on its stage: the name of an example, or the `Server.run` that has drawn it; empty if nothing is.
    """

    moment: int
    shown: str


def mark_of(event: gr.EventData | dict) -> Mark:
    """The mark of an event, or of a request."""
    moment, shown = (event.get(name) if isinstance(event, dict) else said(event, name) for name in Mark._fields)
    return Mark(whole(moment), shown if isinstance(shown, str) else "")


def chosen(event: gr.EventData, count: int) -> int:
    """Which of `count` things a visitor has chosen, from 0."""
    index = said(event, "index")
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(f"There are {count} to choose from, and this is none of them.")
    return index
