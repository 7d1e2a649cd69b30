"""What the last word of a command line may become: the hidden command that the shells ask.

It prints a candidate a line, with its description after a tab.  A candidate is the whole word, also
when only what follows a ``=`` in it was asked for.  One that ends with ``=``, ``:`` or ``/`` is to
be gone on with, so no space follows it.  The last line may be :data:`FILES` or :data:`FOLDERS`: the
shell adds such names from the disk itself.
"""

from __future__ import annotations

from sampan.cli import flags as flag_rules
from sampan.cli.command import Command
from sampan.cli.commands import ALIASES, COMMANDS, GROUPS, HIDDEN
from sampan.cli.failure import Failure
from sampan.cli.flags import LISTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.flags import Flag, Options
    from sampan.cli.session import Session

    Candidates = list[tuple[str, str]]

FILES, FOLDERS = ":files", ":folders"


class _Complete(Command):
    """Takes all words as they are: they are another command's."""

    __slots__ = ()

    def run(self, session: Session, words: Sequence[str]) -> int:
        for word, description in candidates(session, list(words) or [""]):
            session.say(f"{word}\t{description}" if description else word)
        return 0


class Line:
    """The words before the last, as far as they can be understood."""

    def __init__(self, flags: Sequence[Flag], words: Sequence[str], *, interspersed: bool) -> None:
        self.arguments: list[str] = []
        self.flags_over = False
        """Whether what begins with a dash is an argument now."""
        self.values: dict[str, list[str]] = {}
        """The values of each flag given, the empty one of a switch."""
        self.awaited: Flag | None = None
        """The flag whose value comes next."""
        by_name = {flag.name: flag for flag in flags}
        by_short = {flag.short: flag for flag in flags if flag.short}
        for position, word in enumerate(words):
            if self.awaited is not None:
                self._give(self.awaited, word)
                self.awaited = None
            elif self.flags_over or len(word) < 2 or word[0] != "-":
                self.arguments.append(word)
                if not interspersed:
                    self.arguments += words[position + 1 :]
                    self.flags_over = True
                    return
            elif word == "--":
                self.flags_over = True
            elif word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                self._meet(by_name.get(name), value if equals else None)
            else:
                self._letters(by_short, word[1:])

    def _letters(self, by_short: dict[str, Flag], letters: str) -> None:
        while letters:
            flag, letters = by_short.get(letters[0]), letters[1:]
            if flag is not None and flag.kind:
                self._meet(flag, letters.removeprefix("=") if letters else None)
                return
            self._meet(flag, None)

    def _meet(self, flag: Flag | None, value: str | None) -> None:
        if flag is None:
            return
        if value is None and flag.kind:
            self.awaited = flag
        else:
            self._give(flag, value or "")

    def _give(self, flag: Flag, value: str) -> None:
        self.values.setdefault(flag.name, []).append(value)


def candidates(session: Session, words: list[str]) -> Candidates:
    """What the last of ``words`` may become, with descriptions; ``session`` is for those that
    choose no daemon themselves."""
    from sampan.cli.main import GLOBAL_FLAGS
    from sampan.cli.session import Session

    *before, last = words
    line = Line(GLOBAL_FLAGS, before, interspersed=False)
    rest = line.arguments
    spent = len(before) - len(rest) - (line.awaited is not None)
    if spent:
        try:
            session = Session(flag_rules.parse(GLOBAL_FLAGS, before[:spent], interspersed=False)[0])
        except (Failure, flag_rules.Help):
            return []
    if not rest:
        return _flag_or(session, "", GLOBAL_FLAGS, line, last, _first_words())
    if rest[0] == "help" and len(rest) > 1:
        rest = rest[1:]
    if rest == ["help"]:
        return _matching(_first_words(), last)
    name = rest[0]
    if name in GROUPS and len(rest) == 1:
        return _matching(_words_of(name), last)
    spoken = " ".join(rest[:2]) if name in GROUPS else name
    key = ALIASES.get(spoken, spoken)
    if key not in COMMANDS:
        return []
    from sampan.cli.main import command_of

    command = command_of(key)
    given = rest[2:] if name in GROUPS else rest[1:]
    line = Line(command.flags, given, interspersed=command.interspersed)
    return _flag_or(session, key, command.flags, line, last, None)


def _flag_or(
    session: Session,
    key: str,
    flags: Sequence[Flag],
    line: Line,
    last: str,
    arguments: Candidates | None,
) -> Candidates:
    """The names or values of flags, or what an argument can be: ``arguments``, or else what the
    command ``key`` takes there."""
    from sampan.cli.candidates import Source

    source = Source(session, key)
    if line.awaited is not None:
        return _matching(source.of_flag(line.awaited.name, last), last)
    if last.startswith("-") and not line.flags_over:
        name, equals, value = last[2:].partition("=")
        if not equals:
            return _matching(_names(flags, line), last)
        known = last.startswith("--") and any(f.kind and f.name == name for f in flags)
        found = _matching(source.of_flag(name, value), value) if known else []
        return [(_joined(name, word), text) for word, text in found]
    if arguments is None:
        arguments = source.of_argument(line.arguments, last)
    return _matching(arguments, last)


def _joined(flag: str, value: str) -> str:
    return value if value in (FILES, FOLDERS) else f"--{flag}={value}"


def _names(flags: Sequence[Flag], line: Line) -> Candidates:
    free = [f for f in flags if f.name not in line.values or f.kind in LISTS]
    found = [(f"--{flag.name}", flag.help.partition("\n")[0]) for flag in free]
    found += [(f"-{f.short}", f.help.partition("\n")[0]) for f in free if f.short]
    return [*found, ("--help", "Print usage")]


def _first_words() -> Candidates:
    top = [(alias, COMMANDS[key][1]) for alias, key in ALIASES.items() if " " not in alias]
    top += [
        (key, short) for key, (_, short) in COMMANDS.items() if " " not in key and key not in HIDDEN
    ]
    return sorted([*top, *GROUPS.items(), ("help", "Show how a command is used")])


def _words_of(group: str) -> Candidates:
    return sorted(
        (key.partition(" ")[2], short)
        for key, (_, short) in COMMANDS.items()
        if key.startswith(f"{group} ") and key not in HIDDEN
    )


def _matching(found: Candidates, prefix: str) -> Candidates:
    return [
        (word, short)
        for word, short in found
        if word.startswith(prefix) or word in (FILES, FOLDERS)
    ]


def _nothing(session: Session, options: Options, arguments: list[str]) -> int:
    raise AssertionError("the words are never parsed")


COMPLETE = _Complete("", "Print what the last word may become", _nothing)
