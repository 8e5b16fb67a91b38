"""Memory that a training on a CPU would reserve again in every step."""

import ctypes
import platform


# Of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1
TOP_PAD_BYTES = 500_000_000


def keep_freed_memory() -> None:
    """Let the process keep what a step has freed for the next one, where the C library is glibc.

    By default every large tensor is a mapping of its own, given back to the system when it is freed, and the system
    clears its pages again at the next step: a sixth of the time of a step of the default network (1.33 s against
    1.10 s by `python -m benchmarks.profile --data_dir DATA`, on two cores).
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, NEVER)
        library.mallopt(M_TOP_PAD, TOP_PAD_BYTES)
