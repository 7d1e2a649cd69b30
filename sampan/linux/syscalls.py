"""The C library, called by ctypes, with errors as OSError that say what failed with what.

Other modules of this package declare the calls they need with :func:`function` and wrap each in
one thin typed function.  All calls are resolved at import, so that a process which has entered a
container looks nothing up.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

MACHINE = os.uname().machine

_libc = ctypes.CDLL(None, use_errno=True)
_get_errno = ctypes.get_errno

Call = Callable[..., int]


def function(name: str, *argtypes: Any) -> Call:
    """The C library's function ``name``, which returns an int, negative on error."""
    found = getattr(_libc, name)
    found.argtypes = argtypes
    found.restype = ctypes.c_int
    return found  # type: ignore[no-any-return]


def long_function(name: str, *argtypes: Any) -> Call:
    """As :func:`function` for one that returns a long."""
    found = getattr(_libc, name)
    found.argtypes = argtypes
    found.restype = ctypes.c_long
    return found  # type: ignore[no-any-return]


def pointer_function(name: str, *argtypes: Any) -> Callable[..., int | None]:
    """As :func:`function` for one that returns an address; the caller knows how it fails."""
    found = getattr(_libc, name)
    found.argtypes = argtypes
    found.restype = ctypes.c_void_p
    return found  # type: ignore[no-any-return]


def numbered(number: int, *argtypes: Any) -> Call:
    """A system call that the C library has no wrapper for (or not in every version)."""
    # An object of its own, with its own types: a prototype would be a class for each.
    raw = _libc["syscall"]
    raw.argtypes = (ctypes.c_long, *argtypes)
    raw.restype = ctypes.c_long

    def call(*args: Any) -> int:
        return raw(number, *args)  # type: ignore[no-any-return]

    return call


def address_of(name: str) -> int:
    """The address of the C library's function ``name``."""
    return ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value or 0


def by_machine(x86_64: int, generic: int) -> int:
    """The number of a system call that the generic table (aarch64, riscv64) numbers otherwise."""
    return x86_64 if MACHINE == "x86_64" else generic


def error(what: str) -> OSError:
    """The error of the last call: the C library's text preceded by ``what``."""
    number = _get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def path_bytes(path: str | bytes | os.PathLike[str]) -> bytes:
    """The path for a system call.  Raises ValueError for one with a null byte, where C would end."""
    raw = path if isinstance(path, bytes) else os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw
