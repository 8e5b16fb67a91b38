"""How the page looks from outside: what a link to it shows elsewhere, what its API page says, and how it is sent.

By itself, Gradio shows its own name and picture, names parameters without a word of what they are, and sends the page
in twice the bytes that it needs.
"""

import gzip
import html
import inspect
import re
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache, partial
from pathlib import Path

from gradio import components
from gradio.utils import get_function_description


TITLE = "Brain Tumor U-Net"
SUMMARY = "Drop an MRI slice and see where a small neural network finds a tumour."
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "page.png"
PICTURE_PATH = "/preview.png"
TAGS_OF_GRADIO = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')
FIRST_TAG = b'<meta charset="utf-8" />'


class Previews:
    """ASGI middleware: the page with a preview of its own, for whoever shows links and runs no scripts."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable):
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or path not in ("", "/", PICTURE_PATH):
            await self.app(scope, receive, send)
        elif path == PICTURE_PATH:
            await _answer(send, PICTURE.read_bytes() if PICTURE.is_file() else b"")
        else:
            await self.app(scope, receive, _with_tags(send, _address(scope), _takes_gzip(scope)))


def _takes_gzip(scope: dict) -> bool:
    """Whether whoever asks understands gzip."""
    accepted = [value for name, value in scope["headers"] if name.lower() == b"accept-encoding"]
    return any(re.fullmatch(rb"\s*gzip\s*(;\s*q=(?!0(\.0*)?\s*$).*)?", one) for one in b",".join(accepted).split(b","))


@lru_cache(maxsize=4)
def _packed(page: bytes) -> bytes:
    """The same page comes again and again."""
    return gzip.compress(page, compresslevel=6, mtime=0)


def _with_tags(send: Callable, address: str, is_packed: bool) -> Callable:
    """What sends an HTML page with the tags of a preview; it is held back until all of it is there."""
    start: dict = {}
    body = bytearray()

    async def sending(message: dict):
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        page = TAGS_OF_GRADIO.sub(b"", bytes(body)).replace(FIRST_TAG, FIRST_TAG + _tags(address), 1)
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        headers.append((b"vary", b"accept-encoding"))
        if is_packed:
            page = _packed(page)
            headers.append((b"content-encoding", b"gzip"))
        await send({**start, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
        await send({"type": "http.response.body", "body": page})

    return sending


def _tags(address: str) -> bytes:
    tags = {"og:type": "website", "og:title": TITLE, "og:description": SUMMARY, "twitter:card": "summary_large_image"}
    if PICTURE.is_file():
        tags["og:image"] = address.rstrip("/") + PICTURE_PATH
    metas = "".join(f'<meta property="{name}" content="{html.escape(content)}" />' for name, content in tags.items())
    return f'<title>{TITLE}</title><meta name="description" content="{SUMMARY}" />{metas}'.encode()


def _address(scope: dict) -> str:
    """Of the page, as whoever asks for it knows it; a proxy before it says so."""
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    scheme = headers.get(b"x-forwarded-proto", scope.get("scheme", "http")).split(",")[0]
    host = headers.get(b"x-forwarded-host", headers.get(b"host", "")).split(",")[0]
    return f"{scheme}://{host}{scope.get('root_path', '')}"


async def _answer(send: Callable, picture: bytes):
    headers = [(b"content-type", b"image/png"), (b"content-length", str(len(picture)).encode())]
    await send({"type": "http.response.start", "status": 200 if picture else 404, "headers": headers})
    await send({"type": "http.response.body", "body": picture})


def describe(function: Callable, inputs: list[components.Component], examples: list):
    """Let the API page say of every parameter what the docstring of its function says, with an example of our own.

    Args:
        function: that the endpoint calls.
        inputs: components of its parameters, in their order.
        examples: a value for each of them.
    """
    _, texts, _ = get_function_description(function)
    for component, example, text in zip(inputs, examples, texts.values(), strict=True):
        described = {**component.api_info(), "additional_description": text}
        component.api_info_as_input = partial(dict, described)  # type: ignore[method-assign]
        component.example_payload = partial(deepcopy, example)  # type: ignore[method-assign]


def in_one_line_each(function: Callable) -> Callable:
    """A function whose docstring Gradio reads to the end: of a parameter, it takes no more than one line."""
    head, returns, values = inspect.cleandoc(function.__doc__ or "").partition("Returns:\n")
    continued = " " * 8
    function.__doc__ = head.replace(f"\n{continued}", " ") + returns + " ".join(values.split())
    return function
