"""The mounts of containers: volumes, binds, tmpfs and images at their places.

A container's mounts pass through these calls::

    mounts = await attachments.resolve(...)        # at create: names, anonymous volumes, checks
    await attachments.populate(mounts, open_root)  # at create: fill empty volumes from the image
    attachments.settle(mounts)                     # the container is recorded
    spec += await attachments.attach(id, mounts)   # at start: OCI mounts; driver mounts are made
    await attachments.detach(id)                   # after exit

Store ``mounts`` with the container; ``mount.point`` is what inspect shows.  What cannot be a plain
bind of a host path (a path inside of a volume, an image) is mounted at ``RUN/volume-mounts`` while
its container runs.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine import copyup, local_driver, propagation
from sampan.engine.events import Events
from sampan.engine.mounts import (
    LOCAL,
    ContainerMount,
    check_duplicates,
    from_host_config,
    from_volumes,
    inherit,
    parse_volumes_from,
    to_spec,
)
from sampan.engine.types import HostConfig
from sampan.engine.volumes import Volumes
from sampan.errors import Conflict, DiskFull, InvalidParameter, NotFound
from sampan.linux import mount as kernel
from sampan.store.images import ImageStore

OpenRoot = Callable[[], AbstractContextManager[int]]
"""Opens a container's root file system as a directory descriptor."""

Mounts = list[ContainerMount]

MountsOf = Callable[[str], tuple[str, Iterable[ContainerMount]]]
"""Id and mounts of a container by name or id; raises NotFound."""


class Attachments:
    """Brings volumes and the like to containers.

    :param run_dir: mounts are made below it.
    """

    def __init__(self, volumes: Volumes, images: ImageStore, run_dir: Path, events: Events) -> None:
        self._volumes = volumes
        self._images = images
        self._mounts_dir = run_dir / "volume-mounts"
        self._events = events
        self._lock = asyncio.Lock()
        self._attached: dict[str, Mounts] = {}

    async def resolve(
        self, host: HostConfig, volumes: Iterable[str], mounts_of: MountsOf
    ) -> Mounts:
        """All mounts of a new container; missing volumes are created.

        :param volumes: the keys of ``Volumes`` in the container's and the image's configuration.
        :param mounts_of: for ``--volumes-from``.

        Call :meth:`settle` with the result when the container is recorded, and before
        :meth:`discard` when it is not made after all.  Raises InvalidParameter, NotFound, Conflict.
        """
        explicit = from_host_config(host)
        taken = {mount.destination: mount for mount in explicit}
        inherited: Mounts = []
        for text in host.volumes_from or ():
            wish = parse_volumes_from(text)
            try:
                _, theirs = mounts_of(wish.container)
            except NotFound as error:
                # As "not found" clients would take it for the image's absence.
                raise InvalidParameter(str(error)) from None
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
        resolved: Mounts = []
        try:
            for mount in found:
                resolved.append(await self._resolved(mount))
        except BaseException:
            self.settle(resolved)
            await self.discard(resolved)
            raise
        return resolved

    def settle(self, mounts: Iterable[ContainerMount]) -> None:
        """The container of these mounts is recorded, or will not be made: until now its volumes
        were kept from being removed."""
        for mount in mounts:
            if mount.point.type == "volume":
                self._volumes.let_go(mount.point.name)

    async def discard(self, mounts: Iterable[ContainerMount]) -> None:
        """Remove the anonymous volumes among ``mounts`` (of a container that is gone)."""
        for mount in mounts:
            if mount.anonymous:
                try:
                    await self._volumes.remove(mount.point.name, force=True)
                except Conflict:
                    continue  # another container has it by --volumes-from

    async def populate(self, mounts: Iterable[ContainerMount], open_root: OpenRoot) -> None:
        """Fill each empty volume that asks for it with what the image has at its destination.

        Raises InvalidParameter when a volume would cover a file of the image.
        """
        wanted = [
            mount
            for mount in mounts
            if mount.point.type == "volume"
            and mount.copy
            and not mount.subpath
            and not self._volumes.get(mount.point.name).options
        ]
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
                    target = self._mounts_dir / f"{container_id}-{number}"
                    source = await self._source(container_id, mount, target)
                    if source is not None:
                        sources[mount.destination] = str(source)
            except BaseException:
                await self._detach(container_id)
                raise
        return to_spec(mounts, sources)

    async def detach(self, container_id: str) -> None:
        """Undo :meth:`attach`.  Idempotent."""
        async with self._lock:
            for mount in self._attached.get(container_id, ()):
                self._publish("unmount", container_id, mount)
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
            for volume in self._volumes.list():
                if volume.options and not self._is_attached(volume.id):
                    await asyncio.to_thread(local_driver.unmount, self._volumes.path(volume.id))

    # -- inside ----------------------------------------------------------------------------

    async def _resolved(self, mount: ContainerMount) -> ContainerMount:
        """The mount with its volume created, or its image found."""
        if mount.point.type == "image":
            return msgspec.structs.replace(mount, image_id=self._images.get(mount.point.source).id)
        if mount.point.type != "volume":
            return mount
        volume = await self._volumes.create(
            mount.point.name, mount.point.driver, mount.driver_options, mount.labels
        )
        self._volumes.hold(volume.id)
        source = str(self._volumes.path(volume.id))
        point = msgspec.structs.replace(
            mount.point, name=volume.id, source=source, driver=volume.driver
        )
        return msgspec.structs.replace(mount, point=point)

    async def _source(self, container_id: str, mount: ContainerMount, target: Path) -> Path | None:
        """The host path to bind; None for what is mounted from nothing (tmpfs)."""
        kind = mount.point.type
        if kind == "bind":
            return await asyncio.to_thread(_bind_source, mount)
        if kind == "image":
            await self._mount_image(mount, target)
            return target
        if kind != "volume":
            return None
        volume = self._volumes.get(mount.point.name)
        path = self._volumes.path(volume.id)
        if volume.options:
            await asyncio.to_thread(local_driver.mount, path, volume.options)
        self._attached[container_id].append(mount)
        self._publish("mount", container_id, mount)
        if not mount.subpath:
            return path
        await asyncio.to_thread(local_driver.mount_subpath, path, mount.subpath, target)
        return target

    async def _mount_image(self, mount: ContainerMount, target: Path) -> None:
        with self._images.lease():
            chain = await self._images.unpack(self._images.get(mount.image_id))
            if chain is None:
                raise InvalidParameter(f"the image {mount.point.source} has no files to mount")

            def place() -> None:
                root = kernel.stacked(self._images.snapshotter.mounts(chain))
                try:
                    local_driver.mount_tree(root, mount.subpath or ".", target)
                finally:
                    os.close(root)

            await asyncio.to_thread(place)

    def _is_attached(self, name: str) -> bool:
        return any(m.point.name == name for mounts in self._attached.values() for m in mounts)

    async def _detach(self, container_id: str) -> None:
        mounts = self._attached.pop(container_id, [])
        if self._mounts_dir.is_dir():
            for target in [*self._mounts_dir.glob(f"{container_id}-*")]:
                await asyncio.to_thread(local_driver.unmount_target, target)
        for name in {mount.point.name for mount in mounts}:
            volume = self._volumes.find(name)
            if volume is not None and volume.options and not self._is_attached(name):
                await asyncio.to_thread(local_driver.unmount, self._volumes.path(name))

    def _fill(self, mounts: Mounts, open_root: OpenRoot) -> None:
        places = [(mount, self._volumes.path(mount.point.name)) for mount in mounts]
        empty = [(mount, path) for mount, path in places if not any(path.iterdir())]
        if not empty:
            return
        with open_root() as root:
            for mount, path in empty:
                name = mount.point.name
                try:
                    copyup.fill(path, root, mount.destination, in_place=self._is_attached(name))
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise DiskFull(
                        f"no space left on the disk while copying the image's "
                        f"{mount.destination} to the volume {name}"
                    ) from None

    def _publish(self, action: str, container_id: str, mount: ContainerMount) -> None:
        attributes = {"container": container_id, "driver": mount.point.driver}
        if action == "mount":
            attributes |= {
                "destination": mount.destination,
                "read/write": "true" if mount.point.rw else "false",
                "propagation": mount.point.propagation,
            }
        self._events.publish("volume", action, mount.point.name, attributes)


def check_bind_source(mount: ContainerMount) -> None:
    """Raises InvalidParameter when the source of a bind mount does not exist."""
    if not Path(mount.point.source).exists():
        raise InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: '
            f"{mount.point.source}"
        )


def _bind_source(mount: ContainerMount) -> Path:
    source = Path(mount.point.source)
    if mount.create and not source.exists():
        try:
            source.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidParameter(
                f"error while creating mount source path '{source}': {error.strerror}"
            ) from None
    check_bind_source(mount)
    propagation.check(str(source), mount.point.propagation)
    return source
