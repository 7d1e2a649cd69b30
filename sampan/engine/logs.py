"""What a container has written, read back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sampan.engine.launch import Launcher
from sampan.engine.state import Container
from sampan.errors import Unsupported
from sampan.runtime.logs import Entry, read


class Logs:
    """Reads containers' logs."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def check(self, container: Container) -> None:
        """Raises Unsupported when the container's log driver keeps nothing to read."""
        if self._launcher.log_config(container.record).kept.driver == "none":
            raise Unsupported("configured logging driver does not support reading")

    def details(self, container: Container) -> dict[str, str]:
        """What ``--details`` shows before every line: what ``json-file`` has kept with it."""
        config = self._launcher.log_config(container.record)
        return config.attributes if config.driver == "json-file" else {}

    def read(
        self,
        container: Container,
        *,
        stdout: bool = True,
        stderr: bool = True,
        follow: bool = False,
        since: int = 0,
        until: int = 0,
        tail: int | None = None,
        after: int = 0,
        lines: bool = True,
    ) -> AsyncIterator[Entry]:
        """Entries in order; with ``follow`` until the container has ended.

        ``since`` and ``until`` are nanoseconds since the epoch, 0 for no bound; ``tail`` is the
        number of last entries to begin with, None for all; ``after`` the time of an entry to begin
        with instead, 0 for none.  Without ``lines`` an entry may be any piece of the output.
        """
        return read(
            self._launcher.log_config(container.record).kept,
            follow=follow and container.running,
            since=since,
            until=until,
            tail=tail,
            after=after,
            stdout=stdout,
            stderr=stderr,
            running=lambda: container.running and not container.removed.is_set(),
            lines=lines,
        )
