"""Memory of the C library, which many small requests leave in pieces."""

import ctypes
import platform
import time
from threading import Thread


M_ARENA_MAX = -8  # of glibc's malloc.h
MAX_ARENAS = 2
TRIM_SECONDS = 20


def hold_memory_down():
    """Keep glibc from a heap for every thread, and from holding on to what many small requests have left in pieces."""
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_ARENA_MAX, MAX_ARENAS)

    def trim():
        while True:
            time.sleep(TRIM_SECONDS)
            library.malloc_trim(0)

    Thread(target=trim, name="trim", daemon=True).start()
