"""Keep freed memory for the next training step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Tell glibc not to hand large freed blocks back to the system; elsewhere do nothing.

    Every step of a small network on a CPU allocates and frees the same tens of megabytes. Handing them back costs the kernel time for
    fresh pages: with glibc's equivalent environment variables, small networks trained 1.1 to 1.4 times as fast on 2 cores. It holds
    for the whole process, so scripts call it, not the library.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(_M_MMAP_THRESHOLD, 2**30)
            library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
