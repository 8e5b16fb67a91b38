"""The app in a process of its own, as `python app.py` starts it, for benchmarks that ask it over the network."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from gradio_client import Client, handle_file

from .measuring import EXAMPLES, ROOT


PATIENCE_S = 300
PAUSE_S = 0.05


@contextmanager
def serve(model: Path) -> Iterator[tuple[str, int]]:
    """Start the app on a free port of this machine, and yield its address, once it answers, and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MODEL_ID": str(model), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    app = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, app)
        yield url, app.pid
    finally:
        app.terminate()
        app.wait(timeout=PATIENCE_S)


def wait_for(url: str, app: subprocess.Popen):
    """Return once the page is served, or raise RuntimeError if the app ends or needs too long."""
    deadline = time.monotonic() + PATIENCE_S
    with httpx.Client() as client:  # the certificates of a new one take longer than an answer
        while app.poll() is None and time.monotonic() < deadline:
            try:
                return client.get(url).raise_for_status()
            except httpx.HTTPError:
                time.sleep(PAUSE_S)
    raise RuntimeError(f"the app did not answer at {url}; its exit code is {app.poll()}")


def first_answer_seconds(model: Path) -> float:
    """From the start of the app to its answer about one slice."""
    start = time.perf_counter()
    with serve(model) as (url, _):
        Client(url, verbose=False).predict(handle_file(EXAMPLES[0]), api_name="/segment")
        return time.perf_counter() - start
