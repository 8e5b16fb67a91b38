"""The page with a tiny random network behind it, and what visitors may send to it."""

import io
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from PIL import Image
from tiny import tiny_config

import app
from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from space.network import Network, Origin


PATIENCE_S = 60


class CountedNetwork(Network):
    """One entry in `runs` for every time that the network is asked: the number of slices. It waits for its `gate`."""

    def __init__(self, segmenter: TumorSegmenter):
        self.runs = []
        self.gate = threading.Event()
        self.gate.set()
        self.segmenter = segmenter
        super().__init__(segmenter, Origin("tiny-unet", "v1"), on_gpu=self._counted)

    def _counted(self, run: Callable) -> Callable:
        def count(images: list, framing: str):
            self.runs.append(len(images))
            assert self.gate.wait(timeout=120)
            return run(images, framing)

        return count


def save_model(folder: Path) -> Path:
    """Weights that, by chance, put probabilities on both sides of the default threshold."""
    config = tiny_config(widths=[4, 8], depths=[1, 1], strides=[1, 2], decoder_widths=[4])
    torch.manual_seed(0)
    UNetForSemanticSegmentation(config).save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(folder)
    return folder


def load(folder: Path) -> CountedNetwork:
    return CountedNetwork(TumorSegmenter.from_pretrained(folder, device="cpu"))


@contextmanager
def served(page: gr.Blocks, port: int | None = None) -> Iterator[str]:
    """Address of a page, served as `python app.py` does it: at this port, or at one that is free."""
    where = {"server_name": "127.0.0.1", "server_port": port}
    _, url, _ = page.launch(**app.LAUNCH_OPTIONS, **where, prevent_thread_lock=True, quiet=True)
    try:
        yield url
    finally:
        page.close(verbose=False)


def free_port() -> int:
    """One that nobody listens at, and that is none of those among which Gradio looks for the next page's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(condition: Callable[[], object]):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---------------------------------------------------------------------------------------------------------------- files


def slice_of(height: int, width: int, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width), dtype=dtype, endpoint=True)


def saved(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def encoded(image: np.ndarray, file_format: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, format=file_format)
    return content.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims its size: whoever decodes it finds that its pixels are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_FILES = {
    "text.png": (b"not an image at all", "not an image"),
    "truncated.png": (encoded(slice_of(64, 64))[:2000], "truncated"),
    "empty.png": (b"", "empty"),
    "tiny.png": (encoded(slice_of(8, 8)), "8 × 8"),
    "huge.png": (png_header(20_000, 20_000), "at most 100 million"),
    "wide.png": (png_header(9000, 20), "9000 × 20"),
    "nan.tif": (encoded(np.full((20, 20), np.nan, np.float32), "TIFF"), "NaN"),
    "film.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500), "not an image"),
    "paper.pdf": (b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF", "not an image"),
}
