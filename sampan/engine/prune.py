"""Removing the containers that have ended.  Each other noun prunes its own kind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.filters import Filters
from sampan.engine.lifecycle import Lifecycle
from sampan.errors import Conflict, NotFound
from sampan.store.snapshots import Snapshotter


class Prune:
    """Prunes containers."""

    def __init__(
        self,
        containers: Containers,
        lifecycle: Lifecycle,
        snapshotter: Snapshotter,
        events: Events,
    ) -> None:
        self._containers = containers
        self._lifecycle = lifecycle
        self._snapshotter = snapshotter
        self._events = events
        self._running = asyncio.Lock()

    async def containers(
        self, filters: Filters, until: int | None = None
    ) -> tuple[Sequence[str], int]:
        """Remove all stopped containers; returns their ids and the bytes freed.

        Filters: label, label!, until (whose time the caller gives, nanoseconds since the epoch).
        Raises Conflict while another prune is running.
        """
        filters.only("label", "label!", "until")
        if self._running.locked():
            raise Conflict("a prune operation is already running")
        removed: list[str] = []
        freed = 0
        async with self._running:
            for container in self._containers.all():
                labels = container.record.labels
                if container.running or not filters.labels(labels):
                    continue
                if not filters.no_labels(labels):
                    continue
                if until is not None and container.record.created >= until:
                    continue
                size = await asyncio.to_thread(self._size, container.id)
                try:
                    await self._lifecycle.remove(container.id)
                except (Conflict, NotFound):
                    continue  # it was started, or removed, meanwhile
                removed.append(container.id)
                freed += size
        self._events.publish("container", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    def _size(self, key: str) -> int:
        try:
            return self._snapshotter.usage(key).size
        except NotFound:
            return 0
