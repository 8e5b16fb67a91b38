"""Checks of requests: a parameter that is missing or has a wrong type is refused in one sentence.

The page itself sends correct requests, but other programs, and models, can send anything.
"""

import base64
import errno
import json
import re
import traceback
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import gradio as gr
import numpy as np
from gradio.mcp import GradioMCPServer
from gradio.route_utils import FnIndexInferError, MultiPartException
from gradio.routes import JSONResponse  # FastAPI's, which comes with Gradio
from gradio.utils import get_upload_folder

from modeling_unet import InvalidImageError
from modeling_unet.volumes.archives import TOO_MANY_OPEN

from . import downloads
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

DATA, OF_THIS_SERVER = re.compile(r"data:[^,]*;base64,"), "/gradio_api/file="
FILES_OF_TOOLS = (
    ' A file is a string: "data:image/png;base64,…" with the bytes of a file of up to 700 kB, of whatever kind; or the '
    f"http address with {OF_THIS_SERVER} in it that this server, or the tool upload_file_to_gradio, gave for a file. "
    "Other addresses are not fetched."
)


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


class Tools(GradioMCPServer):
    """Gradio's MCP server, whose tools are the endpoints of the API page.

    By itself, it fetches files from any address, keeps those that come as text where nobody deletes them, does not
    take lists of files, writes measurements as Python does, and of several values makes one text without pictures.
    """

    @classmethod
    def take_over(cls, server: GradioMCPServer):
        """Make one of a server of Gradio's that nobody has asked yet."""
        server.__class__ = cls

    @property
    def _file_data_tool_description(self) -> str:
        """Follows the description of a tool that takes files."""
        return FILES_OF_TOOLS

    def get_input_schema(self, tool_name, parameters=None):
        """The JSON schema of a tool's parameters, and where the files are in them."""
        schema, places = super().get_input_schema(tool_name, parameters)
        files = {name for name, *_ in places}
        for name, given in schema["properties"].items():
            given.pop("additional_description", None)
            if name in files:
                is_list = given.get("type") == "array"
                kind = {"type": "array", "items": {"type": "string"}} if is_list else {"type": "string"}
                schema["properties"][name] = kind | {"description": given.get("description", "")}
        return schema, [[name] for name in sorted(files)]

    def convert_strings_to_filedata(self, value, filedata_positions):
        """Arguments of a call, with files as the endpoints take them."""
        return {name: _files(given) if [name] in filedata_positions else given for name, given in value.items()}

    async def _execute_tool_without_progress(self, job):
        """All that an endpoint returns."""
        (values,) = await super()._execute_tool_without_progress(job)
        return list(values)

    def postprocess_output_data(self, data, root_url):
        """Pictures as pictures, other files as addresses, the rest as JSON."""
        is_file = [isinstance(value, dict) and "path" in value for value in data]
        told = [value if is_one else json.dumps(value) for value, is_one in zip(data, is_file, strict=True)]
        return super().postprocess_output_data(told, root_url)


def _files(given: object) -> object:
    if isinstance(given, list):
        return [_files(one) for one in given]
    text = given if isinstance(given, str) else ""
    if data := DATA.match(text):
        path = downloads.write("slice", base64.b64decode(text[data.end() :]))
    elif OF_THIS_SERVER in text:
        path = unquote(text.partition(OF_THIS_SERVER)[2])
    else:
        raise ValueError(f"{FILES_OF_TOOLS.strip()} What was given, {text[:60]!r}, is neither.")
    # Gradio reads it before the endpoint sees it: never a file that was not sent.
    return {"path": str(uploaded({"path": path})), "meta": {"_type": "gradio.FileData"}}


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

    def launch(self, *arguments, app_kwargs: dict[str, Any] | None = None, **options):
        """As in Gradio, which writes what runs at its start into `app_kwargs`: another page would run that again."""
        return super().launch(*arguments, app_kwargs={**(app_kwargs or {})}, **options)

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

    @property  # type: ignore[override] # Gradio has a plain attribute
    def mcp_server_obj(self) -> GradioMCPServer | None:
        """What answers models; None until the page is launched."""
        return self._mcp_server

    @mcp_server_obj.setter
    def mcp_server_obj(self, server: GradioMCPServer | None):
        if server:
            Tools.take_over(server)
        self._mcp_server = server

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
    return among(said(event, "index"), count)


def among(index: object, count: int) -> int:
    """The number of one of `count` things, from 0, for sure."""
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(f"There are {count} to choose from, and this is none of them.")
    return index


def all_painted(slices: object, sizes: Sequence[tuple[int, int]]) -> dict[int, np.ndarray | None]:
    """Which slices were painted on, from 0, and the masks that they have now; see `painted`.

    Args:
        slices: a list of {"index": number of a slice, "runs": of its mask}.
        sizes: height and width of all slices of the study.
    """
    if not isinstance(slices, list) or not all(isinstance(part, dict) for part in slices):
        raise ValueError(WRONG_TYPE)
    parts = [(among(part.get("index"), len(sizes)), part.get("runs")) for part in slices]
    return {index: painted(runs, *sizes[index]) for index, runs in parts}


def painted(runs: object, height: int, width: int) -> np.ndarray | None:
    """A mask, bool [H, W], of the lengths of its runs, row by row, of 0 and 1 in turn, 0 first; None of no runs."""
    if runs is None:
        return None
    size = height * width
    if (
        not isinstance(runs, list)
        or not all(type(run) is int and 0 <= run <= size for run in runs)
        or sum(runs) != size
    ):
        raise ValueError("What was painted does not fit the slice; its mask stays as it was.")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
