"""Limits that many requests would reach: memory, which would grow with each one, and the number of open files."""

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


def open_more_files():
    """Let this process open as many files at a time as the system allows it; by default it is often 1,024."""
    if resource is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems report no limit and then refuse to set it.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def hold_memory_down():
    """Keep glibc from using one heap per thread, and make it give freed memory back after many small requests.

    Gradio asks matplotlib, where it is installed, how it draws, while the first visitor waits; who has to find that out
    loads nearly all of it.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_ARENA_MAX, MAX_ARENAS)

    def trim():
        while True:
            time.sleep(TRIM_SECONDS)
            library.malloc_trim(0)

    Thread(target=trim, name="trim", daemon=True).start()
