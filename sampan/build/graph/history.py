"""Values in the lines of an image's history, as Docker's builders print them.

Tools compare and parse these lines, so they have Go's notation of strings, durations and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.durations import go_duration
from sampan.image.config import Healthcheck

_SHORT = dict(zip("\a\b\f\n\r\t\v\\", "abfnrtv\\", strict=True))


def quoted(text: str, mark: str = '"') -> str:
    """Go's ``%q``: ``"a \\"b\\""``."""
    return mark + "".join(_escaped(char, mark) for char in text) + mark


def _escaped(char: str, mark: str) -> str:
    if char == mark:
        return "\\" + char
    if char in _SHORT:
        return "\\" + _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted_list(words: Iterable[str]) -> str:
    """``["one" "two"]``."""
    return f"[{' '.join(quoted(word) for word in words)}]"


def healthcheck(check: Healthcheck) -> str:
    """``&{["CMD" "true"] "30s" "0s" "0s" "0s" '\\x03'}``: retries are printed as a character."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    shown = " ".join(f'"{go_duration(value)}"' for value in times)
    return f"&{{{quoted_list(check.test or ())} {shown} {quoted(chr(check.retries), chr(39))}}}"
