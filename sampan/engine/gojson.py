"""JSON objects as Go's decoder takes them, which Docker's clients were written against.

A member's name may be in any case, the exact one wins; a member whose value is ``null`` counts as
left out; a name that is not known is ignored, and said so in the log at debug level.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any

from msgspec import inspect

log = logging.getLogger("sampan.engine")


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where a type has members: ``fields`` of an object, by JSON name, or ``items`` of a list or
    of a map."""

    fields: dict[str, inspect.Type] | None = None
    lower: dict[str, str] | None = None
    items: inspect.Type | None = None


def conform(raw: Any, kind: type) -> Any:
    """Parsed JSON with the members' names that ``kind`` has, and no others.  ``raw`` is kept."""
    unknown: list[str] = []
    found = _conform(raw, _of(kind), "", unknown)
    if unknown:
        log.debug("ignored in a request, as unknown: %s", ", ".join(unknown))
    return found


def has_null_byte(raw: Any) -> bool:
    """Whether a text or a name anywhere in parsed JSON has one."""
    if type(raw) is str:
        return "\0" in raw
    if type(raw) is dict:
        return any("\0" in name or has_null_byte(value) for name, value in raw.items())
    return type(raw) is list and any(has_null_byte(item) for item in raw)


def _conform(raw: Any, shape: _Shape | None, place: str, unknown: list[str]) -> Any:
    if type(raw) is dict:
        if shape is None or (shape.fields is None and shape.items is None):
            return {name: _conform(v, None, "", unknown) for name, v in raw.items()
                    if v is not None}  # fmt: skip
        if shape.fields is not None:
            return _object(raw, shape, place, unknown)
        inner = _shape(shape.items)
        return {name: _conform(value, inner, f"{place}{name}.", unknown)
                for name, value in raw.items() if value is not None}  # fmt: skip
    if type(raw) is list:
        inner = _shape(shape.items) if shape is not None else None
        return [_conform(item, inner, place, unknown) for item in raw]
    return raw


def _object(
    raw: dict[str, Any], shape: _Shape, place: str, unknown: list[str]
) -> dict[str, Any]:  # fmt: skip
    assert shape.fields is not None and shape.lower is not None
    found: dict[str, Any] = {}
    exact: set[str] = set()
    for given, value in raw.items():
        name = given if given in shape.fields else shape.lower.get(given.lower(), "")
        if not name:
            unknown.append(place + given)
        elif value is not None and (name == given or name not in exact):
            found[name] = _conform(value, _shape(shape.fields[name]), f"{place}{name}.", unknown)
            if name == given:
                exact.add(name)
    return found


@functools.cache
def _of(kind: type) -> _Shape | None:
    return _shape(inspect.type_info(kind))


_shapes: dict[int, tuple[inspect.Type, _Shape | None]] = {}


def _shape(kind: inspect.Type | None) -> _Shape | None:
    if kind is None:
        return None
    known = _shapes.get(id(kind))
    if known is None:
        # The type is kept with its shape, so that no other one gets its id.
        known = _shapes[id(kind)] = (kind, _make(kind))
    return known[1]


def _make(kind: inspect.Type) -> _Shape | None:
    if isinstance(kind, inspect.UnionType):
        shapes = [shape for shape in map(_shape, kind.types) if shape is not None]
        return shapes[0] if shapes else None
    if isinstance(kind, inspect.StructType):
        fields = {field.encode_name: field.type for field in kind.fields}
        return _Shape(fields, {name.lower(): name for name in fields})
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return _Shape(items=kind.item_type)
    if isinstance(kind, inspect.DictType):
        return _Shape(items=kind.value_type)
    return None
