"""What many requests would use up: memory, which would grow with each, and the few files that may be open."""

import ctypes
import os
import platform
import time
from contextlib import suppress
from threading import Thread


try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment] # on Windows

M_ARENA_MAX = -8  # of glibc's malloc.h
MAX_ARENAS = 2
TRIM_SECONDS = 20

MAX_RECORDED_EVENTS = 100


def open_more_files():
    """Let this process open as many files at a time as the system allows it; by default it is often 1,024."""
    if resource is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems say there is no limit, and then refuse it.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def hold_memory_down():
    """Keep glibc from a heap for every thread, and from holding on to what many small requests have left in pieces.

    Gradio is told to remember fewer of its events than 10,000, of which it makes statistics after each one (14 ms of
    every answer in the end). It has to be told before the page is built.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", str(MAX_RECORDED_EVENTS))
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_ARENA_MAX, MAX_ARENAS)

    def trim():
        while True:
            time.sleep(TRIM_SECONDS)
            library.malloc_trim(0)

    Thread(target=trim, name="trim", daemon=True).start()
