"""``daemon``: serve in the foreground."""

from __future__ import annotations

from sampan.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.session import Session


class _Daemon(Command):
    """The daemon reads its own flags."""

    __slots__ = ()

    def run(self, session: Session, words: Sequence[str]) -> int:
        from sampan.daemon.main import main

        given = list(words)
        for flag in ("run-dir", "state-dir", "log-level"):
            if session.options.given(flag):
                given += [f"--{flag}", session.options[flag]]
        for host in session.options["host"]:
            given += ["--host", host]
        if session.options["debug"]:
            given.append("--debug")
        return main(given)


DAEMON = _Daemon("[OPTIONS]", "Run the daemon in the foreground", lambda *_: 0)
