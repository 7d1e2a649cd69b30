"""Volumes: named directories of the host that outlive containers.

Vocabulary: a *volume* is a name and a directory ``STATE/volumes/NAME/_data``; an *anonymous* one
has 64 hex digits for a name and a label that says so.  A volume with options of the ``local``
driver (``type``, ``device``, ``o``) is a mount on that directory, made when its first container
starts and undone when its last one stops.

A container's mounts pass through four calls::

    mounts = await volumes.resolve(...)          # at create: names, anonymous volumes, checks
    await volumes.populate(mounts, open_root)    # at create: fill empty volumes from the image
    spec += await volumes.attach(id, mounts)     # at start: OCI mounts; driver mounts are made
    await volumes.detach(id)                     # after exit

Store ``mounts`` with the container; ``mount.point`` is what inspect shows.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine import copyup, local_driver
from sampan.engine.events import Events
from sampan.engine.filters import EVERYTHING, Filters
from sampan.engine.mounts import (
    LOCAL,
    ContainerMount,
    check_duplicates,
    check_volume_name,
    from_host_config,
    from_volumes,
    inherit,
    parse_volumes_from,
    to_spec,
)
from sampan.engine.types import HostConfig
from sampan.engine.uses import Uses
from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.store.metadata import Metadata

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_DOOMED = ".removing-"

OpenRoot = Callable[[], AbstractContextManager[int]]
"""Opens a container's root file system as a directory descriptor."""

Mounts = list[ContainerMount]
Pruned = tuple[list[str], int]
"""What was removed, and the bytes that this freed."""

MountsOf = Callable[[str], tuple[str, Iterable[ContainerMount]]]
"""Id and mounts of a container by name or id; raises NotFound."""


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
    """Creates, lists, mounts and removes volumes.

    :param root: ``STATE/volumes``.
    :param run_dir: where mounts of volume subpaths are made.
    :param uses: all containers, to know what is in use.
    """

    def __init__(
        self, metadata: Metadata, root: Path, run_dir: Path, events: Events, uses: Uses
    ) -> None:
        self._records = metadata.collection("volumes", Volume)
        self._root = root
        self._mounts_dir = run_dir / "volume-mounts"
        self._events = events
        self._uses = uses
        self._lock = asyncio.Lock()
        self._attached: dict[str, list[ContainerMount]] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._sweep()

    # -- volumes ---------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """The directory with the volume's content."""
        return self._root / name / "_data"

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
        check_volume_name(name)
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
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            # The record goes first: a directory without one is swept at the next start.
            doomed = self._root / f"{_DOOMED}{secrets.token_hex(8)}"
            await asyncio.to_thread(local_driver.unmount, self.path(name))
            self._records.delete(name)
            if (self._root / name).exists():
                (self._root / name).rename(doomed)
        await asyncio.to_thread(shutil.rmtree, doomed, True)
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})

    async def prune(self, filters: Filters, everything: bool = False) -> Pruned:
        """Remove unused volumes: the anonymous ones, or all with ``all=true`` or ``everything``.

        Filters: all, label, label!.  Returns the names and the bytes freed.
        """
        filters.only("all", "label", "label!")
        everything = filters.boolean("all", everything)
        in_use = self._in_use()
        removed: list[str] = []
        freed = 0
        for volume in self._records.all():
            if volume.id in in_use or not (everything or volume.anonymous):
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

    # -- mounts of containers --------------------------------------------------------------

    async def resolve(
        self,
        host: HostConfig,
        volumes: Iterable[str],
        mounts_of: MountsOf,
    ) -> Mounts:
        """All mounts of a new container; missing volumes are created.

        :param volumes: the keys of ``Volumes`` in the container's and the image's configuration.
        :param mounts_of: for ``--volumes-from``.

        Call :meth:`discard` with the result when the container is not made after all.  Raises
        InvalidParameter, NotFound, Conflict.
        """
        explicit = from_host_config(host)
        taken = {mount.destination: mount for mount in explicit}
        inherited: list[ContainerMount] = []
        for text in host.volumes_from or ():
            wish = parse_volumes_from(text)
            _, theirs = mounts_of(wish.container)
            for mount in theirs:
                if mount.shown and mount.destination not in taken:
                    taken[mount.destination] = mount
                    inherited.append(inherit(mount, wish))
        found = [*explicit, *inherited]
        found += from_volumes(volumes, found, host.volume_driver or LOCAL)
        check_duplicates(found)
        for mount in found:
            if mount.point.type == "bind" and not mount.create:
                check_bind_source(mount)
        resolved: list[ContainerMount] = []
        try:
            for mount in found:
                resolved.append(await self._named(mount) if mount.point.type == "volume" else mount)
        except BaseException:
            await self.discard(resolved)
            raise
        return resolved

    async def discard(self, mounts: Iterable[ContainerMount]) -> None:
        """Remove the anonymous volumes among ``mounts`` (of a container that is gone)."""
        for mount in mounts:
            if mount.anonymous:
                try:
                    await self.remove(mount.point.name, force=True)
                except Conflict:
                    continue  # another container has it by --volumes-from

    async def populate(self, mounts: Iterable[ContainerMount], open_root: OpenRoot) -> None:
        """Fill each empty volume that asks for it with what the image has at its destination.

        Raises InvalidParameter when a volume would cover a file of the image.
        """
        wanted = [
            mount
            for mount in mounts
            if mount.point.type == "volume" and mount.copy and not mount.subpath
        ]
        wanted = [mount for mount in wanted if not self.get(mount.point.name).options]
        if wanted:
            await asyncio.to_thread(self._fill, wanted, open_root)

    async def attach(
        self, container_id: str, mounts: Iterable[ContainerMount]
    ) -> Sequence[dict[str, Any]]:
        """Make the sources ready and return the mounts for the OCI specification, in order.

        Raises InvalidParameter or NotFound when a source is missing.
        """
        mounts = [*mounts]
        sources: dict[str, str] = {}
        async with self._lock:
            self._attached[container_id] = []
            try:
                for number, mount in enumerate(mounts):
                    if mount.point.type == "bind":
                        sources[mount.destination] = await asyncio.to_thread(_bind_source, mount)
                    elif mount.point.type == "volume":
                        path = await self._mounted(mount)
                        self._attached[container_id].append(mount)
                        if mount.subpath:
                            target = self._mounts_dir / f"{container_id}-{number}"
                            await asyncio.to_thread(
                                local_driver.mount_subpath, path, mount.subpath, target
                            )
                            path = target
                        sources[mount.destination] = str(path)
                        self._publish_mount("mount", container_id, mount)
            except BaseException:
                await self._detach(container_id)
                raise
        return to_spec(mounts, sources)

    async def detach(self, container_id: str) -> None:
        """Undo :meth:`attach`.  Idempotent."""
        async with self._lock:
            for mount in self._attached.get(container_id, ()):
                self._publish_mount("unmount", container_id, mount)
            await self._detach(container_id)

    async def restore(self, running: Mapping[str, Iterable[ContainerMount]]) -> None:
        """After a restart of the daemon: these containers still run; undo what others left."""
        async with self._lock:
            for container_id, mounts in running.items():
                self._attached[container_id] = [m for m in mounts if m.point.type == "volume"]
            if self._mounts_dir.is_dir():
                for target in [*self._mounts_dir.iterdir()]:
                    if target.name.rpartition("-")[0] not in running:
                        await asyncio.to_thread(local_driver.unmount_target, target)
            for volume in self._records.all():
                if volume.options and not self._is_attached(volume.id):
                    await asyncio.to_thread(local_driver.unmount, self.path(volume.id))

    # -- inside ----------------------------------------------------------------------------

    def _in_use(self) -> set[str]:
        return {name for use in self._uses() for name in use.volumes}

    def _is_attached(self, name: str) -> bool:
        return any(m.point.name == name for mounts in self._attached.values() for m in mounts)

    async def _named(self, mount: ContainerMount) -> ContainerMount:
        """The mount with its volume created and its source filled in."""
        volume = await self.create(
            mount.point.name, mount.point.driver, mount.driver_options, mount.labels
        )
        source = str(self.path(volume.id))
        point = msgspec.structs.replace(
            mount.point, name=volume.id, source=source, driver=volume.driver
        )
        return msgspec.structs.replace(mount, point=point)

    async def _mounted(self, mount: ContainerMount) -> Path:
        volume = self.get(mount.point.name)
        path = self.path(volume.id)
        if volume.options:
            await asyncio.to_thread(local_driver.mount, path, volume.options)
        return path

    async def _detach(self, container_id: str) -> None:
        mounts = self._attached.pop(container_id, [])
        if self._mounts_dir.is_dir():
            for target in [*self._mounts_dir.glob(f"{container_id}-*")]:
                await asyncio.to_thread(local_driver.unmount_target, target)
        for mount in mounts:
            volume = self._records.get(mount.point.name)
            if volume is not None and volume.options and not self._is_attached(volume.id):
                await asyncio.to_thread(local_driver.unmount, self.path(volume.id))

    def _fill(self, mounts: Mounts, open_root: OpenRoot) -> None:
        empty = [m for m in mounts if not any(self.path(m.point.name).iterdir())]
        if not empty:
            return
        with open_root() as root:
            for mount in empty:
                path = self.path(mount.point.name)
                in_place = self._is_attached(mount.point.name)
                copyup.fill(path, root, mount.destination, in_place=in_place)

    def _publish_mount(self, action: str, container_id: str, mount: ContainerMount) -> None:
        attributes = {
            "container": container_id,
            "driver": mount.point.driver,
        }
        if action == "mount":
            attributes |= {
                "destination": mount.destination,
                "read/write": "true" if mount.point.rw else "false",
                "propagation": mount.point.propagation,
            }
        self._events.publish("volume", action, mount.point.name, attributes)

    def _sweep(self) -> None:
        """Finish removals that were interrupted, and creations that were."""
        for path in self._root.iterdir():
            if path.name.startswith(_DOOMED):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and self._records.get(path.name) is None:
                try:
                    (path / "_data").rmdir()
                    path.rmdir()
                except OSError:
                    continue  # not empty: somebody's data, not ours to delete


def check_bind_source(mount: ContainerMount) -> None:
    """Raises InvalidParameter when the source of a bind mount does not exist."""
    if not Path(mount.point.source).exists():
        raise InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: '
            f"{mount.point.source}"
        )


def _bind_source(mount: ContainerMount) -> str:
    source = Path(mount.point.source)
    if mount.create and not source.exists():
        try:
            source.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidParameter(
                f"error while creating mount source path '{source}': {error.strerror}"
            ) from None
    check_bind_source(mount)
    return str(source)


def tree_size(path: Path) -> int:
    """Bytes of the files below ``path``; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [os.fspath(path)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif info.st_nlink == 1 or (info.st_dev, info.st_ino) not in seen:
                seen.add((info.st_dev, info.st_ino))
                total += info.st_size
    return total
