"""Memory that would grow with every request."""

import ctypes
import os
import platform
import time
from threading import Thread


M_ARENA_MAX = -8  # of glibc's malloc.h
MAX_ARENAS = 2
TRIM_SECONDS = 20

MAX_RECORDED_EVENTS = 100


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
