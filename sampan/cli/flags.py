"""Flags as Docker's command line has them: POSIX short groups, GNU long flags, typed values.

Argument parsing from the standard library is not used: it costs six milliseconds to import, has
other rules for options after arguments, and other messages.
"""

from __future__ import annotations

from sampan.cli.failure import UsageFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

# Kinds of value whose display name is not the kind itself hold one value or, in LISTS, many.
LISTS = frozenset(
    {"list", "strings", "map", "filter", "mount", "network", "ulimit", "gpu-request", "stringArray"}
)
_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATION_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


class Flag:
    """One flag of a command.

    ``kind`` is what ``--help`` calls the value (empty for a switch) and decides how it is read;
    ``default`` is the value when the flag is absent, and ``shown`` what help says of it.
    """

    __slots__ = ("default", "help", "kind", "name", "short", "shown")

    def __init__(
        self,
        name: str,
        kind: str,
        help: str,
        short: str = "",
        default: Any = None,
        shown: str = "",
    ) -> None:
        self.name, self.kind, self.help, self.short = name, kind, help, short
        self.shown = shown
        if default is None:
            if kind in LISTS:
                default = []
            elif not kind:
                default = False
            elif kind in ("int", "uint", "uint16", "bytes", "duration", "decimal"):
                default = 0
            else:
                default = ""
        self.default = default

    @property
    def label(self) -> str:
        """How error messages name the flag."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    def read(self, text: str) -> Any:
        """The value that ``text`` stands for, or ``ValueError`` with the reason."""
        kind = self.kind
        if not kind:
            return _boolean(text)
        if kind in ("int", "uint", "uint16"):
            return _integer(text, kind)
        if kind == "bytes":
            return size(text)
        if kind == "duration":
            return duration(text)
        if kind == "decimal":
            return nano(text)
        return text


class Options:
    """The flags of one invocation: ``options["name"]`` is the value given, or the default."""

    __slots__ = ("_flags", "_given")

    def __init__(self, flags: dict[str, Flag]) -> None:
        self._flags = flags
        self._given: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        return self._flags[name].default

    def given(self, name: str) -> bool:
        """Whether the flag was on the command line."""
        return name in self._given

    def has(self, name: str) -> bool:
        """Whether the command has such a flag."""
        return name in self._flags

    def put(self, flag: Flag, text: str) -> None:
        """Record one occurrence of ``flag``; UsageFailure if ``text`` is not a value of it."""
        try:
            value = flag.read(text)
        except ValueError as error:
            raise UsageFailure(
                f'invalid argument "{text}" for "{flag.label}" flag: {error}'
            ) from None
        if flag.kind == "strings":
            self._given.setdefault(flag.name, []).extend(value.split(",") if value else [])
        elif flag.kind in LISTS:
            self._given.setdefault(flag.name, []).append(value)
        else:
            self._given[flag.name] = value


class Help(Exception):
    """``--help`` was asked for."""


def parse(
    flags: Iterable[Flag],
    words: Sequence[str],
    *,
    interspersed: bool = True,
    help_short: bool = True,
) -> tuple[Options, list[str]]:
    """The options and the arguments in ``words``.

    Without ``interspersed`` the first argument ends the flags (the rest is a command to run).
    ``help_short`` is False where ``-h`` means something else.

    :raises UsageFailure: an unknown flag, a flag without its value, or a value that is not one.
    :raises Help: ``--help``.
    """
    by_name = {flag.name: flag for flag in flags}
    by_short = {flag.short: flag for flag in by_name.values() if flag.short}
    options = Options(by_name)
    arguments: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if len(word) < 2 or word[0] != "-":
            arguments.append(word)
            if not interspersed:
                arguments.extend(words[position:])
                break
        elif word == "--":
            arguments.extend(words[position:])
            break
        elif word.startswith("--"):
            position = _long(by_name, options, word, words, position)
        else:
            position = _shorts(by_short, options, word, words, position, help_short)
    return options, arguments


def _long(
    by_name: dict[str, Flag], options: Options, word: str, words: Sequence[str], position: int
) -> int:
    name, equals, value = word[2:].partition("=")
    if not name or name[0] == "-":
        raise UsageFailure(f"bad flag syntax: {word}")
    if name == "help":
        raise Help
    flag = by_name.get(name)
    if flag is None:
        raise UsageFailure(f"unknown flag: --{name}")
    if equals:
        options.put(flag, value)
    elif not flag.kind:
        options.put(flag, "true")
    elif position < len(words):
        options.put(flag, words[position])
        position += 1
    else:
        raise UsageFailure(f"flag needs an argument: --{name}")
    return position


def _shorts(
    by_short: dict[str, Flag],
    options: Options,
    word: str,
    words: Sequence[str],
    position: int,
    help_short: bool,
) -> int:
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        flag = by_short.get(letter)
        if flag is None:
            if letter == "h" and help_short:
                raise Help
            raise UsageFailure(f"unknown shorthand flag: '{letter}' in {word}")
        if rest.startswith("="):
            options.put(flag, rest[1:])
            return position
        if not flag.kind:
            options.put(flag, "true")
        elif rest:
            options.put(flag, rest)
            return position
        elif position < len(words):
            options.put(flag, words[position])
            return position + 1
        else:
            raise UsageFailure(f"flag needs an argument: '{letter}' in {word}")
    return position


def _boolean(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _integer(text: str, kind: str) -> int:
    function = "ParseInt" if kind == "int" else "ParseUint"
    digits = text[1:] if text[:1] in ("+", "-") and kind == "int" else text
    if not (digits.isascii() and digits.isdigit()):
        try:
            number = int(text, 0) if digits[:1] == "0" and "_" not in text else None
        except ValueError:
            number = None
        if number is None:
            raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax')
    else:
        number = int(text)
    low, high = {"int": (-(1 << 63), (1 << 63) - 1), "uint": (0, (1 << 64) - 1)}.get(
        kind, (0, 65535)
    )
    if not low <= number <= high:
        raise ValueError(f'strconv.{function}: parsing "{text}": value out of range')
    return number


def size(text: str) -> int:
    """Bytes in ``512``, ``64m``, ``1.5g``, ``1GiB`` (units are powers of 1024); -1 is itself."""
    if text == "-1":
        return -1
    number = text.rstrip("bBkKmMgGtTpPiI ")
    unit = text[len(number) :].strip().lower()
    unit = unit.removesuffix("b").removesuffix("i") if unit != "b" else unit
    try:
        if unit not in _SIZE_UNITS or not number or number[0] in "+-" or "_" in number:
            raise ValueError
        return int(float(number) * _SIZE_UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"invalid size: '{text}'") from None


def nano(text: str) -> int:
    """Billionths in a decimal number, as ``--cpus`` has them."""
    whole, _, fraction = text.partition(".")
    digits = (whole or "0") + fraction
    if not text or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"failed to parse {text} as a rational number")
    if len(fraction.rstrip("0")) > 9:
        raise ValueError("value is too precise")
    return int((whole or "0") + fraction[:9].ljust(9, "0"))


def duration(text: str) -> int:
    """Nanoseconds in a Go duration: ``1h30m``, ``1.5s``, ``300ms``, ``0``."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total = 0.0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    while rest:
        end = 0
        while end < len(rest) and (rest[end].isdecimal() or rest[end] == "."):
            end += 1
        number, rest = rest[:end], rest[end:]
        end = 0
        while end < len(rest) and not (rest[end].isdecimal() or rest[end] == "."):
            end += 1
        unit, rest = rest[:end], rest[end:]
        if not number.strip(".") or number.count(".") > 1:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _DURATION_UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _DURATION_UNITS[unit]
    return sign * round(total)
