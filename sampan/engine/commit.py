"""An image from a container: what it changed as one more layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec

from sampan import __version__
from sampan.engine import changes as config_changes
from sampan.engine import mountpoints
from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.images import event_attributes, parse_name
from sampan.engine.merge import merge
from sampan.engine.roots import Roots
from sampan.engine.state import Container
from sampan.engine.types import ContainerConfig
from sampan.errors import Conflict
from sampan.image import config as image_config
from sampan.image.config import History, ImageConfig, RootFS, RunConfig
from sampan.image.digest import Digest
from sampan.progress import Report
from sampan.store.images import Image, ImageStore
from sampan.store.layers import LayerRef

EMPTY_TAR = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""The digest of a tar without members: a layer that changes nothing."""


class Commits:
    """Makes images of containers."""

    def __init__(
        self, store: ImageStore, containers: Containers, roots: Roots, events: Events
    ) -> None:
        self._store = store
        self._containers = containers
        self._roots = roots
        self._events = events

    async def commit(
        self,
        ref: str,
        *,
        repository: str = "",
        tag: str = "",
        author: str = "",
        comment: str = "",
        pause: bool = True,
        changes: Sequence[str] = (),
        config: ContainerConfig | None = None,
        report: Report | None = None,
    ) -> Image:
        """Make an image of the container as it is now and give it the name, if one is given.

        :param config: overrides the container's own configuration where it says something.
        :param report: is told how much of the layer is written.

        Raises NotFound, InvalidParameter (name, changes), Conflict, DiskFull.
        """
        container = self._containers.get(ref)
        record = container.record
        if record.state.status in ("removing", "dead"):
            raise Conflict(f"You cannot commit container {ref} which is {record.state.status}")
        reference = parse_name(repository, tag) if repository else None
        own = record.config if config is None else merge(config, run_config(record.config))
        run = config_changes.apply(run_config(own), changes)
        parent = self._store.get(record.image_id)
        async with self._store.attempt():
            if pause and record.state.status == "running":
                async with _frozen(container):
                    layer = await self._layer(container, report)
            else:
                layer = await self._layer(container, report)
            layers = [*self._store.layers_of(parent.id)]
            if layer.diff_id != EMPTY_TAR:
                layers.append(layer)
            made = _image_config(parent.config, container, run, layer.diff_id, author, comment)
            image = self._store.register(
                image_config.encode(made),
                layers,
                None,
                [reference] if reference else [],
                parent=parent.id,
            )
        shown = reference.familiar() if reference else ""
        if reference is not None:
            self._events.publish("image", "tag", image.id, event_attributes(image, shown))
        self._containers.publish(
            record, "commit", comment=comment, imageID=image.id, imageRef=shown
        )
        return image

    async def _layer(self, container: Container, report: Report | None) -> LayerRef:
        """What the container has changed, without the places that its mounts needed."""
        key, parent = container.id, container.record.parent

        def places() -> set[str]:
            upper = self._store.snapshotter.upper(key)
            if parent is None:
                return mountpoints.made(upper, None)
            with self._roots.snapshot(parent) as below:
                return mountpoints.made(upper, below)

        exclude = await asyncio.to_thread(places)
        return await self._store.commit_layer(key, exclude=exclude, report=report)


@asynccontextmanager
async def _frozen(container: Container) -> AsyncIterator[None]:
    """The container's processes stand still inside of the block."""
    async with container.lock:
        if container.record.state.status != "running":
            yield
            return
        keeper = container.live_keeper()
        await keeper.pause()
        try:
            yield
        finally:
            await keeper.resume()


def run_config(config: ContainerConfig) -> RunConfig:
    """A container's configuration as that of an image: without what was this one's alone."""
    document = msgspec.to_builtins(config)
    for name in ("Hostname", "Domainname", "Image", "MacAddress"):
        document.pop(name, None)
    for name in ("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"):
        document.pop(name, None)
    kept = {name: value for name, value in document.items() if value is not None}
    return msgspec.convert(kept, RunConfig)


def _image_config(
    parent: ImageConfig,
    container: Container,
    run: RunConfig,
    diff_id: Digest,
    author: str,
    comment: str,
) -> ImageConfig:
    """The configuration of the new image."""
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    empty = diff_id == EMPTY_TAR
    step = History(
        created=created,
        created_by=" ".join(container.record.config.cmd or []),
        author=author,
        comment=comment,
        empty_layer=empty,
    )
    diff_ids = [*parent.rootfs.diff_ids, *([] if empty else [diff_id])]
    return ImageConfig(
        architecture=parent.architecture,
        variant=parent.variant,
        os=parent.os,
        os_version=parent.os_version,
        os_features=parent.os_features,
        config=run,
        rootfs=RootFS(diff_ids=diff_ids),
        history=[*parent.history, step],
        created=created,
        author=author,
        comment=comment,
        container=container.id,
        docker_version=__version__,
    )
