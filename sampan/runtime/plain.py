"""Keep bytecode as it was compiled: a process that forks shares only what nobody writes to.

CPython 3.11 counts a function's calls in its code object, from the eighth on rewrites the bytecode
to specialised instructions, and counts down in the inline caches of those that it could not
specialise: run in a forked child, every function costs a page or two of its own, again and again.
Here every function gets a fresh copy of its code whose count is at the end already, which the
interpreter takes for code that has been rewritten and so leaves alone.  Copies made one after
another lie side by side, too.  Other versions of Python are left as they are.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CodeType, FunctionType

_WARMUP_OFFSET = 52
_FRESH = -8


def keep_bytecode() -> bool:
    """Do so for all functions that there are; False if this interpreter is not known to."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return False
    if not _is_counter(keep_bytecode.__code__.replace()):
        return False
    copies: dict[CodeType, CodeType] = {}
    functions = [found for found in gc.get_objects() if type(found) is FunctionType]
    # Ours first: what runs together lies together.
    functions.sort(key=lambda function: not str(function.__module__).startswith("sampan.runtime"))
    for function in functions:
        function.__code__ = _copy(function.__code__, copies)
    return True


def _is_counter(code: CodeType) -> bool:
    """Whether the field is where it is expected, in a code object that has never run."""
    flags = ctypes.c_int.from_address(id(code) + _WARMUP_OFFSET - 4).value
    count = ctypes.c_short.from_address(id(code) + _WARMUP_OFFSET).value
    return flags == code.co_flags and count == _FRESH


def _copy(code: CodeType, copies: dict[CodeType, CodeType]) -> CodeType:
    known = copies.get(code)
    if known is None:
        constants = tuple(
            _copy(value, copies) if isinstance(value, CodeType) else value
            for value in code.co_consts
        )
        known = code.replace(co_consts=constants)
        ctypes.c_short.from_address(id(known) + _WARMUP_OFFSET).value = 0
        copies[code] = known
    return known
