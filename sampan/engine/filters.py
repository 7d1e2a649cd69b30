"""Filters of list and prune requests, as values the engine can ask.

A filter set maps a key (``label``, ``name`` …) to the values given for it.  A key that is absent
matches everything.  How several values of one key combine is Docker's, method by method: labels
must *all* match, everything else matches when *one* value does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sampan.errors import InvalidParameter


class Filters:
    """An immutable set of filter values; build one with ``Filters({"label": ["a=b"]})``."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Iterable[str]] | None = None) -> None:
        # dict.fromkeys keeps the order given and drops repetitions.
        self._fields = {key: tuple(dict.fromkeys(values)) for key, values in (fields or {}).items()}

    def __bool__(self) -> bool:
        return any(self._fields.values())

    def __contains__(self, key: str) -> bool:
        return bool(self._fields.get(key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filters) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._fields.items())))

    def __repr__(self) -> str:
        return f"Filters({self._fields!r})"

    def get(self, key: str) -> tuple[str, ...]:
        """The values given for ``key``; empty when there are none."""
        return self._fields.get(key, ())

    def keys(self) -> Iterable[str]:
        return self._fields.keys()

    def without(self, *keys: str) -> Filters:
        """The same filters less those keys."""
        return Filters({k: v for k, v in self._fields.items() if k not in keys})

    def adding(self, key: str, *values: str) -> Filters:
        """The same filters with ``values`` added to ``key``."""
        return Filters({**self._fields, key: (*self.get(key), *values)})

    def only(self, *accepted: str) -> Filters:
        """Self, when every key is one of ``accepted``.

        Raises InvalidParameter with the name of the first key that is not.
        """
        for key in self._fields:
            if key not in accepted:
                raise InvalidParameter(f"invalid filter '{key}'")
        return self

    def boolean(self, key: str, default: bool) -> bool:
        """The truth value given for ``key``.

        Raises InvalidParameter when it is neither ``true``/``1`` nor ``false``/``0``, or both.
        """
        values = self.get(key)
        if not values:
            return default
        truths = {_TRUTHS.get(value) for value in values}
        if len(truths) != 1 or None in truths:
            raise InvalidParameter(f"invalid filter '{key}=[{' '.join(values)}]'")
        return truths == {True}

    def exact(self, key: str, value: str) -> bool:
        """Whether one of the values equals ``value``."""
        values = self.get(key)
        return not values or value in values

    def prefix(self, key: str, value: str) -> bool:
        """Whether ``value`` starts with one of the values."""
        values = self.get(key)
        return not values or value.startswith(values)

    def pattern(self, key: str, value: str) -> bool:
        """Whether one of the values equals ``value``, or is found in it as a regular expression."""
        values = self.get(key)
        return not values or value in values or any(_search(want, value) for want in values)

    def labels(self, labels: Mapping[str, str] | None, key: str = "label") -> bool:
        """Whether the labels have every wanted ``name`` or ``name=value``."""
        return all(_has_label(labels or {}, want) for want in self.get(key))

    def no_labels(self, labels: Mapping[str, str] | None, key: str = "label!") -> bool:
        """Whether the labels have none of the unwanted ``name`` or ``name=value``."""
        return not any(_has_label(labels or {}, unwanted) for unwanted in self.get(key))


EVERYTHING = Filters()
"""No filter at all."""

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def _has_label(labels: Mapping[str, str], want: str) -> bool:
    name, equals, value = want.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _search(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except (re.error, RecursionError, OverflowError):
        return False
