"""The functions that templates may call: Go's, and those that Docker adds."""

from __future__ import annotations

from sampan import wirejson
from sampan.gotemplate.errors import Trouble
from sampan.gotemplate.show import show, sprintf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def plain(value: Any) -> Any:
    """``value`` with records turned into JSON objects."""
    return value.to_json() if hasattr(value, "to_json") else value


def truth(value: Any) -> bool:
    """Whether Go's templates take ``value`` as true: not zero, not empty, not nil."""
    return bool(value) if not hasattr(value, "field") else True


def _json(value: Any) -> str:
    if hasattr(value, "to_json"):
        return wirejson.dumps_safe(value.to_json())
    return wirejson.dumps(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparable(left: Any, right: Any) -> None:
    if _number(left) and _number(right):
        return
    if type(left) is not type(right) and left is not None and right is not None:
        raise Trouble("incompatible types for comparison")
    if isinstance(left, dict | list):
        raise Trouble(f"non-comparable type {show(left)}")


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise Trouble("missing argument for comparison")
    for other in others:
        _comparable(first, other)
    return any(first == other for other in others)


def _ne(left: Any, right: Any) -> bool:
    return not _eq(left, right)


def _lt(left: Any, right: Any) -> bool:
    _comparable(left, right)
    if not isinstance(left, int | float | str) or isinstance(left, bool):
        raise Trouble("invalid type for comparison")
    return bool(left < right)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = plain(value)
        if value is None:
            raise Trouble("index of untyped nil")
        if isinstance(value, dict):
            value = value.get(str(key), value.get(key))
        elif isinstance(value, str | list | tuple):
            if not isinstance(key, int) or isinstance(key, bool):
                raise Trouble(f"cannot index slice/array with type {type(key).__name__}")
            if not 0 <= key < len(value):
                raise Trouble(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise Trouble(f"can't index item of type {type(value).__name__}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, str | list | tuple):
        raise Trouble(f"can't slice item of type {type(value).__name__}")
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= low <= high <= len(value):
        raise Trouble(f"index out of range: {high if high > len(value) else low}")
    return value[low:high]


def _len(value: Any) -> int:
    if not isinstance(value, str | list | tuple | dict):
        raise Trouble(f"len of type {type(value).__name__}")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _print(*values: Any) -> str:
    parts = ""
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            parts += " "
        parts += show(value, nested=True)
    return parts


def _println(*values: Any) -> str:
    return " ".join(show(value, nested=True) for value in values) + "\n"


def _printf(form: str, *values: Any) -> str:
    return sprintf(form, list(values))


def _split(text: Any, separator: str) -> list[str]:
    return list(_text(text)) if separator == "" else _text(text).split(separator)


def _join(values: Any, separator: str) -> str:
    if not isinstance(values, list | tuple):
        raise Trouble(f"expected a list of strings; found {show(values)}")
    return separator.join(show(value, nested=True) for value in values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Trouble(f"wrong type for value; expected string; got {type(value).__name__}")
    return value


def _title(text: Any) -> str:
    words, before = "", " "
    for letter in _text(text):
        words += letter.upper() if not before.isalnum() and before != "_" else letter
        before = letter
    return words


def _pad(text: Any, prefix: int, suffix: int) -> str:
    found = _text(text)
    return found and " " * prefix + found + " " * suffix


def _truncate(text: Any, length: int) -> str:
    found = _text(text)
    return found[:length] if len(found) > length else found


def _html(*values: Any) -> str:
    text = _print(*values)
    for letter, entity in (
        ("&", "&amp;"),
        ("'", "&#39;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ('"', "&#34;"),
    ):
        text = text.replace(letter, entity)
    return text


def _urlquery(*values: Any) -> str:
    data = _print(*values).encode("utf-8", "surrogateescape")
    pieces = (chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)
    return "".join(pieces).replace("%20", "+")


def _call(function: Any, *values: Any) -> Any:
    if not callable(function):
        raise Trouble(f"non-function of type {type(function).__name__}")
    return function(*values)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": lambda left, right: _lt(left, right) or _eq(left, right),
    "gt": lambda left, right: not (_lt(left, right) or _eq(left, right)),
    "ge": lambda left, right: not _lt(left, right),
    "not": lambda value: not truth(value),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "html": _html,
    "js": lambda *values: wirejson.dumps(_print(*values))[1:-1].replace("'", "\\'"),
    "urlquery": _urlquery,
    "call": _call,
    "json": _json,
    "split": _split,
    "join": _join,
    "title": _title,
    "lower": lambda text: _text(text).lower(),
    "upper": lambda text: _text(text).upper(),
    "pad": _pad,
    "truncate": _truncate,
}

SHORT_CIRCUIT = frozenset({"and", "or"})
"""Functions whose arguments are evaluated only as far as needed."""


def _same(text: Any, *_: Any) -> Any:
    return text


HEADERS: dict[str, Callable[..., Any]] = {
    **FUNCTIONS,
    **dict.fromkeys(("json", "title", "lower", "upper", "truncate", "split", "join"), _same),
}
"""What the functions are while a table's heading is made: they keep the column's name."""
