"""The containers of this daemon: which there are, making one, renaming it, forgetting it.

Life of a container: ``create`` (record, snapshot, volumes) → ``Lifecycle.start`` → running →
exited → start again or ``Lifecycle.remove``.  All containers are held in memory, so that looking
one up and listing all of them never touches the disk.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import msgspec

from sampan.engine import (
    endpoints,
    links,
    logconfig,
    mountpoints,
    names,
    resources,
    specs,
    validate,
)
from sampan.engine.attachments import Attachments
from sampan.engine.events import Events
from sampan.engine.merge import merge
from sampan.engine.mounts import ContainerMount
from sampan.engine.ports import exposed_and_bound
from sampan.engine.remap import Remap
from sampan.engine.runtimes import Runtimes
from sampan.engine.state import Container, ContainerRecord, now
from sampan.engine.types import (
    CreateRequest,
    HostConfig,
    LogConfig,
    RestartPolicy,
)
from sampan.errors import Conflict, InvalidParameter, NotFound
from sampan.runtime import cgroups
from sampan.runtime.cgroups.naming import PLAIN, GroupNames
from sampan.store.images import Image, ImageStore
from sampan.store.metadata import Metadata

IMAGES_KNOWN = 1000
"""Of how many images it is remembered how their ``/etc`` looks."""

OpenRoot = Callable[[str], AbstractContextManager[int]]
"""Opens the root file system of a snapshot, by key, as a directory descriptor."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a container gets that asks for nothing."""

    log_driver: str = "local"
    log_options: dict[str, str] | None = None
    shm_size: int = 64 << 20
    runtimes: Runtimes = field(default_factory=Runtimes)
    remap: Remap | None = None
    groups: GroupNames = PLAIN


@dataclass(frozen=True, slots=True)
class Created:
    """A new container's id, and what could not be done as asked."""

    id: str
    warnings: list[str]


class Containers:
    """All containers by id, name and unique prefix of an id."""

    def __init__(
        self,
        metadata: Metadata,
        images: ImageStore,
        events: Events,
        open_root: OpenRoot,
        defaults: Defaults,
    ) -> None:
        self._records = metadata.collection("containers", ContainerRecord)
        self._images = images
        self.volumes: Attachments | None = None
        """Set once by the composition root: volumes need to know of containers too."""
        self._events = events
        self._open_root = open_root
        self._defaults = defaults
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._reserved: dict[str, str] = {}
        self._etc: dict[str, mountpoints.Etc | None] = {}
        for record in sorted(self._records.all(), key=lambda record: record.created):
            self._remember(Container(record))

    # -- looking up ------------------------------------------------------------------------

    def all(self) -> list[Container]:
        """Every container, newest first."""
        return list(reversed(self._by_id.values()))

    def get(self, ref: str) -> Container:
        """By full id, name (with or without a slash), or unique prefix of the id.

        Raises NotFound ``No such container: REF``, InvalidParameter when several ids match.
        """
        found = self._by_id.get(ref) or self._by_name.get(ref.removeprefix("/"))
        if found is not None:
            return found
        matches = [id for id in self._by_id if id.startswith(ref)] if ref else []
        if len(matches) == 1:
            return self._by_id[matches[0]]
        if not ref:
            raise InvalidParameter('invalid name or ID supplied: ""')
        if matches:
            raise InvalidParameter(f"multiple IDs found with provided prefix: {ref}")
        raise NotFound(f"No such container: {ref}")

    def snapshot_keys(self) -> list[str]:
        """The snapshots of all containers, those being made included: not garbage."""
        return [*self._by_id, *self._reserved.values()]

    def mounts_of(self, ref: str) -> tuple[str, list[ContainerMount]]:
        """Id and mounts of a container, for ``--volumes-from``."""
        container = self.get(ref)
        return container.id, container.record.mounts

    # -- changing --------------------------------------------------------------------------

    async def create(self, name: str | None, request: CreateRequest, platform: str = "") -> Created:
        """Make a container of an image that is here.

        Raises NotFound (image, network namespace's container), InvalidParameter, Unsupported,
        Conflict (name).
        """
        image = self._images.get(request.image)
        image = _for_platform(self._images.family(image), platform)
        host = self._completed(request.host_config)
        config = merge(request.config(), image.config.config)
        if config.network_disabled and not host.network_mode.startswith("container:"):
            host = msgspec.structs.replace(host, network_mode="none")
        validate.check(config, host)
        host, discarded = resources.kept(host, cgroups.version())
        self._defaults.runtimes.check(host.runtime)
        if self._defaults.remap:
            self._defaults.remap.check(host)
        try:
            self._defaults.groups.check(host.cgroup_parent)
        except ValueError as error:
            raise InvalidParameter(str(error)) from None
        endpoints.check_mode(config, host, request)
        endpoints.check_hosts(host)
        host = self._referring(host)
        config = exposed_and_bound(config, host)
        if host.network_mode == "host" and not config.hostname:
            config = msgspec.structs.replace(config, hostname=os.uname().nodename)
        id = secrets.token_hex(32)
        volumes = self.volumes
        assert volumes is not None
        chosen = self._reserve(name, id)
        try:
            record = ContainerRecord(
                id=id,
                name=chosen,
                created=now(),
                image_id=image.id,
                parent=None,
                config=config,
                host=host,
                driver=self._images.snapshotter.driver,
                networks=endpoints.wanted(host, request),
            )
            record.macs = {n: e.mac_address for n, e in record.networks.items() if e.mac_address}
            # Built once for its checks: what cannot become a process is refused now.
            specs.build(record, specs.Environment())
            if record.host.log_config.config.get("tag"):
                logconfig.tag(record)
            await self._furnish(record, image)
            try:
                self._put(record)
                self._remember(Container(record))
            finally:
                volumes.settle(record.mounts)
        finally:
            self._reserved.pop(chosen, None)
        self.publish(record, "create")
        return Created(id, [*discarded, *_warnings(host)])

    async def _furnish(self, record: ContainerRecord, image: Image) -> None:
        """Resolve the record's mounts and prepare its snapshot; nothing is left on failure."""
        volumes = self.volumes
        assert volumes is not None
        record.mounts = await volumes.resolve(
            record.host, list(record.config.volumes or {}), self.mounts_of
        )
        try:
            with self._images.lease():
                record.parent = await self._images.unpack(image)
                mounts = self._images.snapshotter.prepare(record.id, record.parent)
            try:
                if size := validate.storage_size(record.host):
                    self._images.snapshotter.limit(record.id, size)
                mountpoints.mark(mounts, await self._etc_of(record.parent))
                await volumes.populate(
                    record.mounts, lambda: self._open_root(record.parent or record.id)
                )
            except BaseException:
                await asyncio.to_thread(self._images.snapshotter.remove, record.id)
                raise
        except BaseException:
            volumes.settle(record.mounts)
            await volumes.discard(record.mounts)
            raise

    async def _etc_of(self, parent: str | None) -> mountpoints.Etc | None:
        """What there is to know of an image for :func:`mountpoints.mark`; looked at once."""
        if parent is None:
            return mountpoints.etc_of(None)
        if parent not in self._etc:

            def look(parent: str = parent) -> mountpoints.Etc | None:
                with self._open_root(parent) as root:
                    return mountpoints.etc_of(root)

            if len(self._etc) >= IMAGES_KNOWN:
                self._etc.clear()
            self._etc[parent] = await asyncio.to_thread(look)
        return self._etc[parent]

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name.  Raises Conflict, InvalidParameter."""
        old = container.name
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        if name.removeprefix("/") == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        try:
            chosen = self._reserve(name, container.id)
        except Conflict as error:
            raise Conflict(f"Error when allocating new name: {error}") from None
        try:
            self._put(msgspec.structs.replace(container.record, name=chosen))
            container.record.name = chosen
            self._by_name.pop(old, None)
            self._by_name[chosen] = container
        finally:
            self._reserved.pop(chosen, None)
        self.publish(container.record, "rename", oldName=f"/{old}")

    def save(self, container: Container) -> None:
        """Store the record as it is now."""
        self._put(container.record)

    def erase(self, container: Container) -> None:
        """Remove the record on disk: after a crash the container will not be there."""
        self._records.delete(container.id, durable=not container.record.host.auto_remove)

    def forget(self, container: Container) -> None:
        """Say that the container, whose record is erased, is gone."""
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.name) is container:
            del self._by_name[container.name]
        self.publish(container.record, "destroy")
        container.removed.set()

    def publish(self, record: ContainerRecord, action: str, **attributes: str) -> None:
        """An event of this container, with Docker's attributes."""
        common = {**record.labels, "image": record.config.image, "name": record.name}
        self._events.publish("container", action, record.id, {**common, **attributes})

    # -- inside ----------------------------------------------------------------------------

    def _put(self, record: ContainerRecord) -> None:
        # A container that is removed when it ends does not outlive the machine's either.
        self._records.put(record, durable=not record.host.auto_remove)

    def _remember(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.name] = container

    def _reserve(self, name: str | None, id: str) -> str:
        """Keep a name from others until the record is stored."""
        if not name:
            chosen = names.generate(self._by_name.keys() | self._reserved.keys())
        else:
            chosen = names.check(name)
            holder = self._by_name.get(chosen)
            holder_id = holder.id if holder else self._reserved.get(chosen)
            if holder_id:
                raise Conflict(
                    f'Conflict. The container name "/{chosen}" is already in use by container '
                    f'"{holder_id}". You have to remove (or rename) that container to be able to '
                    "reuse that name."
                )
        self._reserved[chosen] = id
        return chosen

    def _completed(self, host: HostConfig) -> HostConfig:
        """The host configuration with the daemon's defaults filled in, as inspect shows it."""
        log = host.log_config
        if log.type in ("", self._defaults.log_driver):
            options = {**(self._defaults.log_options or {}), **log.config}
            log = LogConfig(type=self._defaults.log_driver, config=options)
        policy = host.restart_policy
        return msgspec.structs.replace(
            host,
            log_config=log,
            network_mode=_network_mode(host.network_mode),
            restart_policy=policy if policy.name else RestartPolicy("no"),
            ipc_mode=host.ipc_mode or "private",
            # As Docker: version 1 control groups are shown in the host's namespace.
            cgroupns_mode=host.cgroupns_mode or ("private" if cgroups.version() == 2 else "host"),
            shm_size=host.shm_size or self._defaults.shm_size,
            runtime=host.runtime or self._defaults.runtimes.default,
            # Docker accounts swap as twice the memory where only the memory is limited.
            memory_swap=host.memory_swap or host.memory * 2,
            oom_kill_disable=host.oom_kill_disable or False,
            # What clients send for "not limited" is shown as null.
            memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
            pids_limit=host.pids_limit if (host.pids_limit or 0) > 0 else None,
            security_opt=_security_options(host),
        )

    def _referring(self, host: HostConfig) -> HostConfig:
        """``host`` with ids in place of names of containers whose namespaces are to be joined.

        Raises InvalidParameter when such a container, or one that is linked to, does not exist:
        clients take "not found" for the image.
        """
        modes = {}
        for mode in ("network_mode", "ipc_mode", "pid_mode"):
            kind, container, name = getattr(host, mode).partition("container:")
            if not container or kind:
                continue
            try:
                modes[mode] = f"container:{self.get(name).id}"
            except NotFound as error:
                raise InvalidParameter(str(error)) from None
        for name, _ in links.of(host):
            try:
                self.get(name)
            except NotFound as error:
                raise InvalidParameter(f"could not get container for {name}: {error}") from None
        return msgspec.structs.replace(host, **modes)


def _security_options(host: HostConfig) -> list[str] | None:
    """What is asked for; else, as Docker, no label for a container that shares with the host."""
    if host.security_opt:
        return host.security_opt
    shares = host.privileged or "host" in (host.ipc_mode, host.pid_mode)
    return ["label=disable"] if shares else host.security_opt


def _network_mode(mode: str) -> str:
    return "bridge" if mode in ("", "default") else mode


def _for_platform(images: Sequence[Image], platform: str) -> Image:
    """The first of the images that is for the platform.  Raises NotFound."""
    for image in images if platform else ():
        try:
            _check_platform(image, platform)
            return image
        except NotFound:
            continue
    _check_platform(images[0], platform)
    return images[0]


def _check_platform(image: Image, platform: str) -> None:
    if not platform:
        return
    wanted = platform.lower().split("/")
    config = image.config
    own = [config.os or "linux", config.architecture, config.variant]
    if len(wanted) == 1:
        same = wanted[0] in (own[0], own[1])
    else:
        same = wanted[:2] == own[:2] and (len(wanted) < 3 or not own[2] or wanted[2] == own[2])
    if not same:
        raise NotFound(
            f"image with reference {image.repo_tags[0] if image.repo_tags else image.id} was found "
            f"but its platform ({'/'.join(filter(None, own))}) does not match the specified "
            f"platform ({platform})"
        )


def _warnings(host: HostConfig) -> list[str]:
    warnings = []
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can "
            "result in the system running out of resources."
        )
    if host.port_bindings and host.network_mode == "host":
        warnings.append("Published ports are discarded when using host network mode")
    return warnings
