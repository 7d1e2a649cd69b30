"""The daemon's handle of a keeper: commands, replies and events over its control socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sampan.runtime.types import AttachRequest, ContainerState, ExecRequest, KeeperEvent


def read_state(run_dir: Path) -> ContainerState | None:
    """The last state that a keeper recorded in its run directory, or None."""
    raise NotImplementedError


class Keeper:
    """A live connection to one keeper.  Every method raises KeeperGone when it has ended."""

    state: ContainerState
    on_event: Callable[[KeeperEvent], None] | None

    @classmethod
    async def connect(
        cls, run_dir: Path, on_event: Callable[[KeeperEvent], None] | None = None
    ) -> Keeper:
        """Connect to the keeper whose run directory this is (after a daemon restart)."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The container's first process, as the host numbers it."""
        raise NotImplementedError

    @property
    def keeper_pid(self) -> int:
        raise NotImplementedError

    async def signal(self, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to every process of the container."""
        raise NotImplementedError

    async def attach(self, request: AttachRequest, fd: int) -> None:
        """Hand a client's connection to the keeper; the caller closes its own copy."""
        raise NotImplementedError

    async def exec(self, request: ExecRequest, fds: Sequence[int] = ()) -> int:
        """Start a further process; return its process number.  Raises StartError."""
        raise NotImplementedError

    async def exec_attach(self, exec_id: str, request: AttachRequest, fd: int) -> None:
        """Attach a client to a process started by :meth:`exec`."""
        raise NotImplementedError

    async def resize(self, rows: int, columns: int, exec_id: str | None = None) -> None:
        """Set the terminal's window size."""
        raise NotImplementedError

    async def pause(self) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    async def update(self, resources: dict[str, Any]) -> None:
        """Apply OCI ``linux.resources`` to the running container."""
        raise NotImplementedError

    async def set_restart(self, name: str, maximum_retry_count: int = 0) -> None:
        """Change the restart policy (``stop`` sets ``no`` first)."""
        raise NotImplementedError

    async def wait_closed(self) -> None:
        """Return when the keeper has ended (its last event has been delivered by then)."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop the connection; the keeper and its container go on."""
        raise NotImplementedError
