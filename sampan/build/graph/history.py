"""Values in the lines of an image's history, as Docker's builders print them.

Tools compare and parse these lines, so they have Go's notation of strings, durations and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.image.config import Healthcheck

_SHORT = dict(zip("\a\b\f\n\r\t\v\\", "abfnrtv\\", strict=True))
_UNITS = (("h", 3600 * 10**9), ("m", 60 * 10**9))


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


def duration(nanoseconds: int) -> str:
    """Go's text of a duration: ``1m30s``, ``500ms``."""
    if nanoseconds < 10**9:
        for unit, size in (("ms", 10**6), ("\N{MICRO SIGN}s", 10**3), ("ns", 1)):
            if nanoseconds >= size:
                return f"{nanoseconds / size:.9f}".rstrip("0").rstrip(".") + unit
        return "0s"
    text = ""
    rest = nanoseconds
    for unit, size in _UNITS:
        if nanoseconds >= size:
            text += f"{rest // size}{unit}"
            rest %= size
    fraction = f".{rest % 10**9:09d}".rstrip("0").rstrip(".")
    return f"{text}{rest // 10**9}{fraction}s"


def healthcheck(check: Healthcheck) -> str:
    """``&{["CMD" "true"] "30s" "0s" "0s" "0s" '\\x03'}``: retries are printed as a character."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    shown = " ".join(f'"{duration(value)}"' for value in times)
    return f"&{{{quoted_list(check.test or ())} {shown} {quoted(chr(check.retries), chr(39))}}}"
