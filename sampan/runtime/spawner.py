"""The daemon's side of the spawner: start it, ask it for keepers.

``Spawner.start`` runs the fork server; ``spawn`` returns once the container's process has been
executed, with the :class:`~sampan.runtime.control.Keeper` to talk to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sampan.runtime.control import Keeper
from sampan.runtime.types import KeeperEvent, KeeperRequest


class Spawner:
    """A connection to one fork server process."""

    @classmethod
    async def start(cls, preload: Sequence[str] = ()) -> Spawner:
        """Run the fork server with the modules of ``preload`` imported (keeper services)."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        raise NotImplementedError

    async def spawn(
        self,
        request: KeeperRequest,
        *,
        attach_fds: Sequence[int] = (),
        hold_fds: Sequence[int] = (),
        on_event: Callable[[KeeperEvent], None] | None = None,
    ) -> Keeper:
        """Start a container; return when its process has been executed.

        ``attach_fds`` belong to ``request.attaches`` in order.  The descriptors are duplicated
        into the keeper; the caller closes its own.  ``on_event`` gets every event from
        ``Started`` on.  Raises StartError.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """End the fork server; keepers live on."""
        raise NotImplementedError
