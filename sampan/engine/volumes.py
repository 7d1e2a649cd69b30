"""Volumes: named directories of the host that outlive containers.

Vocabulary: a *volume* is a name and a directory ``STATE/volumes/NAME/_data``; an *anonymous* one
has 64 hex digits for a name and a label that says so.  A volume with options of the ``local``
driver (``type``, ``device``, ``o``) is a mount on that directory, made when its first container
starts and undone when its last one stops (:mod:`sampan.engine.attachments`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from sampan.engine import local_driver
from sampan.engine.events import Events
from sampan.engine.filters import EVERYTHING, Filters
from sampan.engine.mounts import (
    LOCAL,
    check_volume_name,
)
from sampan.engine.uses import Uses
from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.linux.trees import below, remove_tree
from sampan.store.metadata import Metadata

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_DOOMED = ".removing-"

Pruned = tuple[list[str], int]
"""What was removed, and the bytes that this freed."""


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as it is stored; ``id`` is its name, ``created`` in nanoseconds since the epoch."""

    id: str
    driver: str = LOCAL
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    created: int = 0

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS_LABEL in (self.labels or {})


class Volumes:
    """Creates, lists and removes volumes.

    :param root: ``STATE/volumes``.
    :param uses: all containers, to know what is in use.
    """

    def __init__(self, metadata: Metadata, root: Path, events: Events, uses: Uses) -> None:
        self._records = metadata.collection("volumes", Volume)
        self._root = root
        self._events = events
        self._uses = uses
        self._lock = asyncio.Lock()
        self._held: Counter[str] = Counter()
        root.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._sweep()

    # -- volumes ---------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """The directory with the volume's content."""
        return self._root / name / "_data"

    def find(self, name: str) -> Volume | None:
        """The volume of this name, if there is one."""
        return self._records.get(name)

    def get(self, name: str) -> Volume:
        """Raises NotFound: ``get NAME: no such volume``."""
        volume = self._records.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def list(self, filters: Filters = EVERYTHING) -> list[Volume]:
        """Volumes by name; filters: dangling, driver, label, name."""
        filters.only("dangling", "driver", "label", "name")
        in_use = self._in_use()
        dangling = filters.boolean("dangling", False) if "dangling" in filters else None
        return sorted(
            (
                volume
                for volume in self._records.all()
                if filters.pattern("name", volume.id)
                and filters.exact("driver", volume.driver)
                and filters.labels(volume.labels)
                and (dangling is None or dangling == (volume.id not in in_use))
            ),
            key=lambda volume: volume.id,
        )

    def hold(self, name: str) -> None:
        """Keep a volume that a container is being made with, until :meth:`let_go`."""
        self._held[name] += 1

    def let_go(self, name: str) -> None:
        """The container is there, or will not be."""
        self._held[name] -= 1
        if self._held[name] <= 0:
            del self._held[name]

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one of this name if it is the same.

        Raises InvalidParameter (name, options), NotFound (driver), Conflict (the name has another
        driver or other options).
        """
        labels = dict(labels or {})
        if not name:
            name = secrets.token_hex(32)
            labels[ANONYMOUS_LABEL] = ""
        try:
            check_volume_name(name)
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error}") from None
        driver = driver or LOCAL
        if driver != LOCAL:
            raise NotFound(
                f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not '
                "found"
            )
        try:
            local_driver.check(options or {})
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error}") from None
        async with self._lock:
            found = self._records.get(name)
            if found is not None:
                if options and dict(options) != (found.options or {}):
                    raise Conflict(
                        f"create {name}: conflict: volume name must be unique: a volume {name} "
                        "exists with other options"
                    )
                return found
            volume = Volume(
                id=name,
                labels=labels,
                options=dict(options) if options else None,
                created=time.time_ns(),
            )
            self.path(name).mkdir(parents=True, exist_ok=True, mode=0o755)
            (self._root / name).chmod(0o701)
            self._records.put(volume)
        self._events.publish("volume", "create", name, {"driver": driver})
        return volume

    async def remove(self, name: str, force: bool = False) -> None:
        """Delete a volume and its content.  With ``force`` a missing one is no error.

        Raises NotFound, or Conflict while a container (running or not) has it.
        """
        async with self._lock:
            volume = self._records.get(name)
            if volume is None:
                if force:
                    return
                raise NotFound(f"get {name}: no such volume")
            users = [use.id for use in self._uses() if name in use.volumes]
            if users or name in self._held:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            # The record goes first: a directory without one is swept at the next start.
            doomed = self._root / f"{_DOOMED}{secrets.token_hex(8)}"
            await asyncio.to_thread(local_driver.unmount, self.path(name))
            self._records.delete(name)
            if (self._root / name).exists():
                (self._root / name).rename(doomed)
        await asyncio.to_thread(remove_tree, doomed, True)
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})

    async def prune(self, filters: Filters, everything: bool = False) -> Pruned:
        """Remove unused volumes: the anonymous ones, or all with ``all=true`` or ``everything``.

        A volume with options of its driver names what is elsewhere (a disk, a server's share), and
        stays.  Filters: all, label, label!.  Returns the names and the bytes freed.
        """
        filters.only("all", "label", "label!")
        everything = filters.boolean("all", everything)
        in_use = self._in_use()
        removed: list[str] = []
        freed = 0
        for volume in self._records.all():
            if volume.id in in_use or volume.options or not (everything or volume.anonymous):
                continue
            if not filters.labels(volume.labels) or not filters.no_labels(volume.labels):
                continue
            size = await asyncio.to_thread(tree_size, self.path(volume.id))
            try:
                await self.remove(volume.id)
            except (Conflict, NotFound):
                continue
            removed.append(volume.id)
            freed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def usage(self, volume: Volume) -> tuple[int, int]:
        """Bytes in the volume (-1 for one that is a mount of its own) and containers using it."""
        users = sum(volume.id in use.volumes for use in self._uses())
        if volume.options:
            return -1, users
        return await asyncio.to_thread(tree_size, self.path(volume.id)), users

    # -- inside ----------------------------------------------------------------------------

    def _in_use(self) -> set[str]:
        return {name for use in self._uses() for name in use.volumes} | self._held.keys()

    def _sweep(self) -> None:
        """Finish removals that were interrupted, and creations that were."""
        for path in self._root.iterdir():
            if path.name.startswith(_DOOMED):
                remove_tree(path, ignore_errors=True)
            elif path.is_dir() and self._records.get(path.name) is None:
                try:
                    (path / "_data").rmdir()
                    path.rmdir()
                except OSError:
                    continue  # not empty: somebody's data, not ours to delete


def tree_size(path: Path) -> int:
    """Bytes of the files below ``path``; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    with suppress(OSError):
        for entry in below(path):
            with suppress(OSError):
                info = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    continue
                if info.st_nlink == 1 or (info.st_dev, info.st_ino) not in seen:
                    seen.add((info.st_dev, info.st_ino))
                    total += info.st_size
    return total
