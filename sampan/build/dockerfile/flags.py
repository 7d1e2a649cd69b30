"""The ``--flag=value`` words in front of an instruction's arguments."""

from __future__ import annotations

import csv
import difflib
import re

from sampan.build.dockerfile.ast import MountFlag
from sampan.build.dockerfile.errors import SyntaxProblem

_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MULTIPLE = frozenset({"mount", "exclude", "device"})
_TRUE = frozenset({"", "1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})
_KNOWN: dict[str, tuple[str, ...]] = {
    "FROM": ("platform",),
    "RUN": ("mount", "network", "security", "device"),
    "COPY": ("from", "chown", "chmod", "link", "parents", "exclude"),
    "ADD": ("chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}


class Flags:
    """Flags of one statement; each accessor takes its flag out, :meth:`finish` wants none left."""

    __slots__ = ("_given", "_left", "_name")

    def __init__(self, name: str, words: list[tuple[str, int]], base: int) -> None:
        self._name = name
        self._given: dict[str, list[tuple[str | None, int]]] = {}
        known = _KNOWN.get(name, ())
        for word, offset in words:
            flag, equals, value = word[2:].partition("=")
            if flag not in known:
                near = difflib.get_close_matches(flag, known, n=1)
                hint = f" (did you mean --{near[0]}?)" if near else ""
                raise SyntaxProblem(f"unknown flag: {name} --{flag}{hint}", base + offset)
            earlier = self._given.setdefault(flag, [])
            if earlier and flag not in _MULTIPLE:
                raise SyntaxProblem(f"duplicate flag specified: --{flag}", base + offset)
            earlier.append((value if equals else None, base + offset))
        self._left = set(self._given)

    def _take(self, flag: str) -> list[tuple[str | None, int]]:
        self._left.discard(flag)
        return self._given.get(flag, [])

    def at(self, flag: str) -> int | None:
        """Where a flag stands in the statement; None when it was not given."""
        return next((offset for _, offset in self._given.get(flag, ())), None)

    def text(self, flag: str) -> str:
        for value, offset in self._take(flag):
            if value is None:
                raise SyntaxProblem(f"missing a value on flag: --{flag}", offset)
            return value
        return ""

    def many(self, flag: str) -> tuple[str, ...]:
        values = []
        for value, offset in self._take(flag):
            if value is None:
                raise SyntaxProblem(f"missing a value on flag: --{flag}", offset)
            values.append(value)
        return tuple(values)

    def boolean(self, flag: str) -> bool | None:
        for value, offset in self._take(flag):
            lowered = (value or "").lower()
            if lowered in _TRUE:
                return True
            if lowered in _FALSE:
                return False
            raise SyntaxProblem(f"expecting boolean value for flag --{flag}, not: {value}", offset)
        return None

    def duration(self, flag: str) -> int:
        """Nanoseconds; 0 when not given."""
        for value, offset in self._take(flag):
            try:
                found = parse_duration(value or "")
            except ValueError as error:
                raise SyntaxProblem(f"--{flag}: {error}", offset) from None
            if 0 < found < 1_000_000:
                raise SyntaxProblem(f"Interval {flag!r} cannot be less than 1ms", offset)
            return found
        return 0

    def count(self, flag: str) -> int:
        for value, offset in self._take(flag):
            digits = (value or "").removeprefix("+")
            if not (digits.isascii() and digits.isdecimal()):
                raise SyntaxProblem(f"--{flag} must be a number, not {value!r}", offset)
            return int(digits)
        return 0

    def mounts(self) -> tuple[MountFlag, ...]:
        return tuple(
            MountFlag(parse_options(value, offset), value or "")
            for value, offset in self._take("mount")
        )

    def finish(self) -> None:
        """Refuse what the instruction's parser did not take."""
        for flag in self._left:
            raise SyntaxProblem(f"{self._name} --{flag} is not valid here", self._given[flag][0][1])


def parse_options(value: str | None, offset: int) -> tuple[tuple[str, str | None], ...]:
    """``type=cache,target=/x,"id=a,b",ro`` as pairs; quoting as in CSV."""
    if not value:
        raise SyntaxProblem("missing a value on flag: --mount", offset)
    try:
        rows = list(csv.reader([value], strict=True))
    except csv.Error as error:
        raise SyntaxProblem(f"invalid mount options {value!r}: {error}", offset) from None
    pairs: list[tuple[str, str | None]] = []
    for field in rows[0] if rows else []:
        key, equals, text = field.partition("=")
        pairs.append((key.strip().lower(), text if equals else None))
    return tuple(pairs)


def parse_duration(text: str) -> int:
    """Go's duration syntax (``1h30m``, ``500ms``) in nanoseconds; raises ValueError."""
    if text == "0":
        return 0
    total, pos = 0.0, 0
    while pos < len(text):
        match = _DURATION_PART.match(text, pos)
        if match is None:
            break
        total += float(match[1]) * _UNIT[match[2]]
        pos = match.end()
    if not text or pos != len(text):
        raise ValueError(f"invalid duration {text!r}: write it like 30s or 1m30s")
    return int(total)


def format_duration(nanoseconds: int) -> str:
    """The shortest exact text that :func:`parse_duration` reads back."""
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        if nanoseconds % _UNIT[unit] == 0:
            return f"{nanoseconds // _UNIT[unit]}{unit}"
    return f"{nanoseconds}ns"
