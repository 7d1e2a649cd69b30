"""One command: its words, its usage, its flags, and what it does."""

from __future__ import annotations

from sampan.cli import flags as flag_rules
from sampan.cli.failure import UsageFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.cli.flags import Flag, Options
    from sampan.cli.session import Session

    Action = Callable[[Session, Options, list[str]], int]

PROGRAM = "sampan"


class Command:
    """A leaf of the command tree.

    ``usage`` is what follows the words (``[OPTIONS] IMAGE [COMMAND] [ARG...]``), ``least`` and
    ``most`` bound the number of arguments, ``interspersed`` allows flags after arguments, and
    ``fatal`` is the exit code of a refusal by the daemon.
    """

    __slots__ = ("action", "fatal", "flags", "interspersed", "least", "most", "short", "usage")

    def __init__(
        self,
        usage: str,
        short: str,
        action: Action,
        flags: Sequence[Flag] = (),
        *,
        least: int = 0,
        most: int | None = None,
        interspersed: bool = True,
        fatal: int = 1,
    ) -> None:
        self.usage, self.short, self.action, self.flags = usage, short, action, flags
        self.least, self.most, self.interspersed, self.fatal = least, most, interspersed, fatal

    def run(self, session: Session, words: Sequence[str]) -> int:
        """Parse ``words`` and act; returns the exit code."""
        short_help = all(flag.short != "h" for flag in self.flags)
        options, arguments = flag_rules.parse(
            self.flags, words, interspersed=self.interspersed, help_short=short_help
        )
        self._count(session, len(arguments))
        return self.action(session, options, arguments)

    def _count(self, session: Session, number: int) -> None:
        if number >= self.least and (self.most is None or number <= self.most):
            return
        if self.most == 0:
            wanted = "accepts no arguments"
        elif self.most is None:
            wanted = f"requires at least {_arguments(self.least)}"
        elif self.least == self.most:
            wanted = f"requires {_arguments(self.least)}"
        elif self.least:
            wanted = f"requires at least {self.least} and at most {_arguments(self.most)}"
        else:
            wanted = f"requires at most {_arguments(self.most)}"
        words = f"{PROGRAM} {session.words}"
        raise UsageFailure(f"{PROGRAM}: '{words}' {wanted}", code=1)


def _arguments(number: int) -> str:
    return f"{number} argument" if number == 1 else f"{number} arguments"
