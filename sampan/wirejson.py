"""JSON by the interpreter's C scanner, without the regular expressions that ``json`` imports.

``import json`` costs four to eight milliseconds, most of it ``re`` and ``enum``; a command of the
client takes about fifteen.  The C parts are the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    encode_text: Callable[[str], str]
    _scan: Callable[[str, int], tuple[Any, int]]

_SPACE = " \t\r\n"


class _Rules:
    """What the C scanner reads its configuration from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012


try:
    from _json import encode_basestring as encode_text
    from _json import make_scanner

    _scan = make_scanner(_Rules)  # type: ignore[arg-type]
except (ImportError, AttributeError, TypeError):  # another interpreter, or a later one
    from json.decoder import JSONDecoder
    from json.encoder import encode_basestring as encode_text

    _scan = JSONDecoder().scan_once  # type: ignore[attr-defined]


def loads(data: bytes | str) -> Any:
    """The one JSON value in ``data``; :class:`ValueError` if it is not one."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    value, end = scan(text, 0)
    if text[end:].strip(_SPACE):
        raise ValueError(f"extra data after a JSON value at character {end}")
    return value


def scan(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at or after ``start``, and where it ends."""
    while start < len(text) and text[start] in _SPACE:
        start += 1
    try:
        return _scan(text, start)
    except StopIteration:
        raise ValueError(f"no JSON value at character {start}") from None


def dumps(value: Any, indent: str = "", _margin: str = "") -> str:
    """``value`` as JSON: compact, or with ``indent`` a level, laid out as Go's encoder does."""
    if isinstance(value, str):
        return encode_text(value)
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _number(value)
    inner = _margin + indent
    between = f",\n{inner}" if indent else ","
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        parts = [
            f"{encode_text(str(key))}{colon}{dumps(item, indent, inner)}"
            for key, item in value.items()
        ]
        opening, closing = "{", "}"
    elif isinstance(value, list | tuple):
        parts = [dumps(item, indent, inner) for item in value]
        opening, closing = "[", "]"
    else:
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    if not parts:
        return opening + closing
    if not indent:
        return opening + between.join(parts) + closing
    return f"{opening}\n{inner}{between.join(parts)}\n{_margin}{closing}"


def _number(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("a number that is not finite has no form in JSON")
    return str(int(value)) if value == int(value) and abs(value) < 1e21 else repr(value)


def dumps_safe(value: Any) -> str:
    """As :func:`dumps`, with the characters escaped that would mean something in HTML."""
    text = dumps(value)
    for letter, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(letter, escape)
    return text
