"""Checks of requests: a parameter that is missing or has a wrong type is refused in one sentence.

The page itself sends correct requests, but other programs can send anything.
"""

import errno
import traceback
from pathlib import Path

import gradio as gr
from gradio.route_utils import FnIndexInferError
from gradio.routes import JSONResponse  # FastAPI's, which comes with Gradio
from gradio.utils import get_upload_folder

from modeling_unet import InvalidImageError
from modeling_unet.volumes.archives import TOO_MANY_OPEN


MAX_NAME_SHOWN = 100
MAX_SENTENCE = 200
WRONG_TYPE = "A parameter of this request is missing, or has another type or value than the API page says."
NO_FUNCTION = "There is no such function; the API page lists those that there are."
BUSY = "The server is busy and has no room for more files; please try again in a minute."
USED_UP = (*TOO_MANY_OPEN, errno.ENOSPC, errno.ENOMEM)


def refusal(sentence: str) -> gr.Error:
    """An error of the visitor's request: it stays on the page until it is closed, and is not logged."""
    return gr.Error(sentence, duration=None, print_exception=False)


class Page(gr.Blocks):
    """Blocks whose parameters are checked before any listener sees them."""

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


def chosen(event: gr.EventData, count: int) -> int:
    """Which of `count` things a visitor has chosen, from 0."""
    index = said(event, "index")
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(f"There are {count} to choose from, and this is none of them.")
    return index
