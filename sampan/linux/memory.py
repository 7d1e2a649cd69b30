"""Memory of this process that nobody uses (``malloc_trim(3)`` of glibc)."""

from __future__ import annotations

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return free memory to the kernel; with a C library that has no such call do nothing."""
    if _trim is not None:
        _trim(0)
