"""Settings of the process that make training on a CPU faster."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def tune_cpu() -> None:
    """Keep freed memory for the next training step, and take numbers too small for float32's full precision for 0.

    Every step of a small network on a CPU allocates and frees the same tens of megabytes. Handing them back to the system costs the
    kernel time for fresh pages: where glibc keeps them, small networks trained 1.1 to 1.4 times as fast on 2 cores. And of a unit that
    never fires, the moments of its gradient shrink until processors take many times as long for each of them: cloning by Muon
    fell from 7 steps a second to 2. Both settings hold for the whole process, so scripts call this, not the library.
    """
    torch.set_flush_denormal(True)  # for this thread and those that it starts
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(_M_MMAP_THRESHOLD, 2**30)
            library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
