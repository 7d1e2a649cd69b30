"""Query parameters as Docker reads them."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from aiohttp import web

from sampan.errors import InvalidParameter

T = TypeVar("T")
_FALSE = ("", "0", "no", "false", "none")


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A truth value: everything but ``0``, ``no``, ``false``, ``none`` and nothing is true."""
    value = request.query.get(name)
    return default if value is None else value.strip().lower() not in _FALSE


def truth(request: web.Request, name: str) -> bool:
    """A truth value of those endpoints that know only Go's spellings.  Raises InvalidParameter."""
    value = request.query.get(name, "")
    if value in ("", "0", "f", "F", "false", "FALSE", "False"):
        return False
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    raise InvalidParameter(
        f"invalid value for {name}: {value}: strconv.ParseBool: parsing {value!r}: invalid syntax"
    )


def integer(request: web.Request, name: str, default: int = 0) -> int:
    """A decimal number.  Raises InvalidParameter for anything else."""
    value = request.query.get(name, "").strip()
    if not value:
        return default
    try:
        return int(value)
    except ValueError:
        raise InvalidParameter(f"invalid value for {name}: {value!r} is not a number") from None


def string_map(request: web.Request, name: str) -> dict[str, str]:
    """A JSON object of strings; empty when the parameter is absent.  Raises InvalidParameter."""
    return {key: value or "" for key, value in nullable_map(request, name).items()}


def nullable_map(request: web.Request, name: str) -> dict[str, str | None]:
    """A JSON object of strings or nulls.  Raises InvalidParameter."""
    return json_value(request, name, dict[str, str | None]) or {}


def json_value(request: web.Request, name: str, kind: type[T]) -> T | None:
    """A JSON value of some type; None when the parameter is absent or null."""
    text = request.query.get(name, "")
    if not text or text == "null":
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid value for {name}: {error}") from None
