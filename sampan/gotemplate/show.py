"""How Go prints values, and its Printf."""

from __future__ import annotations

from sampan import wirejson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class Struct(dict):  # type: ignore[type-arg]  # no import of typing at run time
    """A JSON object that is a struct in Go.

    ``nothing`` tells how a null member prints; ``absent`` has the members that JSON leaves out
    where they are empty.
    """

    def __init__(
        self, members: dict[str, Any], nothing: Callable[[str], str], absent: Mapping[str, Any]
    ) -> None:
        super().__init__(members)
        self.nothing, self.absent = nothing, absent

    def shown(self) -> str:
        """The members' values, in their order."""
        values = (
            self.nothing(name) if value is None else show(value, nested=True)
            for name, value in self.items()
        )
        return f"{{{' '.join(values)}}}"


class Map(dict):  # type: ignore[type-arg]  # no import of typing at run time
    """A JSON object that is a map in Go: what is null in it is an empty slice."""


def show(value: Any, *, nested: bool = False) -> str:
    """``value`` as ``%v`` prints it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>" if nested else "<no value>"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Struct):
        return value.shown()
    if isinstance(value, dict):
        null: list[Any] | None = [] if isinstance(value, Map) else None
        given = ((key, value[key]) for key in sorted(value, key=str))
        pairs = (f"{key}:{show(null if it is None else it, nested=True)}" for key, it in given)
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(show(item, nested=True) for item in value)}]"
    return str(value)


def number(value: float) -> str:
    """A float as ``%v`` prints it."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"inf": "+Inf", "-inf": "-Inf"}.get(str(value), "NaN")
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if "e" not in text:
        return text
    mantissa, _, exponent = text.partition("e")
    sign = "-" if exponent[0] == "-" else "+"
    return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-').zfill(2)}"


def quoted(text: str) -> str:
    """A string as ``%q`` prints it."""
    return wirejson.encode_text(text).replace("\\u00", "\\x")


def sprintf(form: str, values: list[Any]) -> str:
    """Go's Sprintf, with its ``%!d(string=x)`` complaints."""
    parts: list[str] = []
    position = used = 0
    while True:
        start = form.find("%", position)
        if start < 0:
            parts.append(form[position:])
            break
        parts.append(form[position:start])
        end = start + 1
        while end < len(form) and form[end] in "+-# 0123456789.*":
            end += 1
        spec = form[start + 1 : end]
        if end >= len(form):
            parts.append("%!(NOVERB)")
            break
        verb = form[end]
        position = end + 1
        if verb == "%":
            parts.append("%")
            continue
        while "*" in spec and used < len(values):
            spec = spec.replace("*", str(values[used]), 1)
            used += 1
        if used >= len(values):
            parts.append(f"%!{verb}(MISSING)")
            continue
        parts.append(_formatted(spec, verb, values[used]))
        used += 1
    if used < len(values):
        extra = ", ".join(f"{_type(value)}={show(value, nested=True)}" for value in values[used:])
        parts.append(f"%!(EXTRA {extra})")
    return "".join(parts)


def _type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string"}
    return names.get(type(value), "map[string]interface {}" if isinstance(value, dict) else "[]")


def _formatted(spec: str, verb: str, value: Any) -> str:
    flags = spec[: len(spec) - len(spec.lstrip("+-# 0"))]
    width, _, precision = spec[len(flags) :].partition(".")
    has_precision = "." in spec
    text: str | None = None
    if verb == "v":
        text = show(value, nested=True)
    elif verb == "s":
        text = show(value, nested=True) if not isinstance(value, bool | int | float) else None
        text = text[: int(precision or 0)] if text is not None and has_precision else text
    elif verb == "q" and isinstance(value, str):
        text = quoted(value)
    elif verb == "t" and isinstance(value, bool):
        text = show(value)
    elif verb in "dboxXcU" and isinstance(value, int) and not isinstance(value, bool):
        text = _integral(flags, verb, value)
    elif verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        text = text.upper() if verb == "X" else text
    elif verb in "feEgG" and isinstance(value, int | float) and not isinstance(value, bool):
        digits = int(precision or 0) if has_precision else 6
        if verb in "gG" and not has_precision:
            text = number(float(value))
        else:
            text = f"{float(value):{'+' if '+' in flags else ''}.{digits}{verb}}"
    elif verb == "T":
        text = _type(value)
    if text is None:
        return f"%!{verb}({_type(value)}={show(value, nested=True)})"
    room = int(width or 0)
    if "-" in flags:
        return text.ljust(room)
    if "0" in flags and verb != "s":
        return text.zfill(room)
    return text.rjust(room)


def _integral(flags: str, verb: str, value: int) -> str:
    if verb == "c":
        return chr(value)
    if verb == "U":
        return f"U+{value:04X}"
    sign = "+" if "+" in flags else ""
    return f"{value:{sign}{'#' if '#' in flags and verb != 'd' else ''}{verb}}"
