"""``hub serve``: a registry."""

from __future__ import annotations

from sampan.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.session import Session


class _Serve(Command):
    """The hub reads its own flags."""

    __slots__ = ()

    def run(self, session: Session, words: Sequence[str]) -> int:
        from sampan.hub.server import main

        return main(list(words))


SERVE = _Serve("[OPTIONS]", "Serve a registry with search and a web page", lambda *_: 0)
