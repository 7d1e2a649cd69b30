"""``--help`` in Docker's layout."""

from __future__ import annotations

from sampan.cli.command import PROGRAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.cli.command import Command
    from sampan.cli.flags import Flag

_SLOP = 5
_NARROWEST = 24


def of_command(command: Command, words: str, spellings: list[str], width: int) -> str:
    """The help of a leaf command, known by ``words`` and by all of ``spellings``."""
    parts = [f"Usage:  {PROGRAM} {words} {command.usage}".rstrip(), "", command.short]
    if len(spellings) > 1:
        parts += ["", "Aliases:", "  " + ", ".join(f"{PROGRAM} {name}" for name in spellings)]
    if command.flags:
        parts += ["", "Options:", of_flags(command.flags, width)]
    return "\n".join(parts) + "\n"


def of_group(words: str, short: str, entries: list[tuple[str, str]]) -> str:
    """The help of a group such as ``sampan container``."""
    return (
        f"Usage:  {PROGRAM} {words} COMMAND\n\n{short}\n\nCommands:\n"
        f"{_columns(entries)}\n"
        f"Run '{PROGRAM} {words} COMMAND --help' for more information on a command.\n"
    )


def of_program(
    sections: list[tuple[str, list[tuple[str, str]]]], global_flags: Iterable[Flag], width: int
) -> str:
    """The help of ``sampan`` alone."""
    body = "\n".join(f"{title}:\n{_columns(entries)}" for title, entries in sections)
    return (
        f"Usage:  {PROGRAM} [OPTIONS] COMMAND\n\n"
        "A complete container engine: build, run, commit, pull, push\n\n"
        f"{body}\nGlobal Options:\n{of_flags(global_flags, width)}\n\n"
        f"Run '{PROGRAM} COMMAND --help' for more information on a command.\n"
    )


def _columns(entries: list[tuple[str, str]]) -> str:
    longest = max((len(name) for name, _ in entries), default=0)
    return "".join(f"  {name:<{max(longest, 11)}} {short}\n" for name, short in entries)


def of_flags(flags: Iterable[Flag], width: int) -> str:
    """A line a flag, wrapped to ``width`` columns."""
    lefts: list[tuple[str, Flag]] = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        short = f"-{flag.short}, " if flag.short else "    "
        lefts.append((f"  {short}--{flag.name}{' ' if flag.kind else ''}{flag.kind}", flag))
    margin = max(len(left) for left, _ in lefts) + 3
    return "\n".join(
        left.ljust(margin) + _wrapped(described(flag), margin, width) for left, flag in lefts
    )


def described(flag: Flag) -> str:
    """What a flag means, with its default."""
    if flag.shown:
        return f"{flag.help} (default {flag.shown})"
    if flag.default and isinstance(flag.default, bool | int | float):
        text = str(flag.default).lower() if isinstance(flag.default, bool) else str(flag.default)
        return f"{flag.help} (default {text})"
    if flag.default and isinstance(flag.default, str):
        return f'{flag.help} (default "{flag.default}")'
    return flag.help


def _wrapped(text: str, margin: int, width: int) -> str:
    room = width - margin
    if room < _NARROWEST:
        return text.replace("\n", "\n" + " " * margin)
    lines: list[str] = []
    for paragraph in text.split("\n"):
        rest = paragraph
        while len(rest) > room:
            cut = rest.rfind(" ", 0, room - _SLOP)
            if cut <= 0:
                break
            lines.append(rest[:cut])
            rest = rest[cut + 1 :]
        lines.append(rest)
    return ("\n" + " " * margin).join(lines)
