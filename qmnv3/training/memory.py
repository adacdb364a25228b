"""Memory that training frees stays with the process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors for the next step, where the C library is glibc.

    By default it gives large blocks back to the kernel, which clears every page again: a training step on
    the CPU takes a quarter to a third longer (`benchmarks/qat_step.py`).
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
