"""Pulling one image: its manifest, its platform, then all blobs at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from sampan.errors import InvalidParameter, NotFound, SampanError
from sampan.image import digest as digests
from sampan.image.manifest import Descriptor, Index, Manifest, Platform
from sampan.image.reference import Reference
from sampan.progress import Progress, Report
from sampan.registry import failures, manifests, platforms
from sampan.registry.blobs import Downloads
from sampan.registry.manifests import Document
from sampan.registry.tasks import task_group
from sampan.registry.transport import MAX_DOCUMENT_BYTES, Remote

if TYPE_CHECKING:
    from sampan.store.content import ContentStore

MAX_INDEX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought: everything named here is in the content store.

    ``descriptor`` is what the reference named (an index or a manifest: its digest is the one to
    show and to keep as repo digest); ``manifest`` the image chosen for the platform.
    """

    reference: Reference
    descriptor: Descriptor
    manifest: Descriptor
    manifest_bytes: bytes
    config: Descriptor
    config_bytes: bytes
    layers: tuple[Descriptor, ...]
    index_bytes: bytes | None = None


class Arrival:
    """A blob on its way."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def bring(self, task: asyncio.Task[None]) -> None:
        """``task`` is what brings it."""
        self._task = task
        task.add_done_callback(lambda _: self._begun.set())

    def begin(self) -> None:
        self._begun.set()

    async def begun(self) -> None:
        """Return when the first bytes are being received, or the blob is here, or never will be."""
        await self._begun.wait()

    async def here(self) -> None:
        """Return when the blob is in the content store.  Raises what kept it from coming."""
        assert self._task is not None
        await asyncio.wait((self._task,))
        self._task.result()


@dataclass(frozen=True, slots=True)
class LayerComing:
    """A layer of the image, and how far its blob is."""

    index: int
    blob: Descriptor
    config_bytes: bytes
    arrival: Arrival


OnLayer: TypeAlias = Callable[[LayerComing], Awaitable[None]]


class _ConfigProbe(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Pull:
    """One pull.  ``remotes`` are the repository's endpoints in the order to try."""

    def __init__(
        self,
        remotes: list[Remote],
        ref: Reference,
        platform: Platform | None,
        content: ContentStore,
        downloads: Downloads,
        report: Report,
        on_layer: OnLayer | None,
    ) -> None:
        self._remotes = remotes
        self._ref = ref
        self._wanted = platform
        self._content = content
        self._downloads = downloads
        self._report = report
        self._on_layer = on_layer

    async def run(self) -> Pulled:
        """Raises NotFound, Unauthorized, Unavailable, InvalidParameter, DiskFull."""
        remote, top = await self._first_answer()
        self._report(
            Progress(f"Pulling from {self._ref.path}", self._ref.tag or self._ref.digest or "")
        )
        image = await self._choose(remote, top)
        assert isinstance(image.value, Manifest)
        layers = image.value.layers
        for digest in dict.fromkeys(layer.digest for layer in layers):
            self._report(Progress("Pulling fs layer", digests.short(digest)))
        config_bytes = await self._fetch_all(remote, image.value)
        await asyncio.to_thread(self._keep, top, image)
        return Pulled(
            reference=self._ref,
            descriptor=top.descriptor,
            manifest=image.descriptor,
            manifest_bytes=image.data,
            config=image.value.config,
            config_bytes=config_bytes,
            layers=layers,
            index_bytes=top.data if isinstance(top.value, Index) else None,
        )

    async def _first_answer(self) -> tuple[Remote, Document]:
        failure: SampanError | None = None
        for remote in self._remotes:
            try:
                return remote, await manifests.get(remote, self._ref)
            except SampanError as exc:
                failure = exc
                if not remote.endpoint.mirror:
                    break
        assert failure is not None
        raise failure

    async def _choose(self, remote: Remote, top: Document) -> Document:
        """Follow indexes down to the manifest of the wanted platform."""
        wanted = self._wanted or platforms.host_platform()
        current = top
        for _ in range(MAX_INDEX_DEPTH):
            if isinstance(current.value, Manifest):
                return current
            chosen = platforms.choose(current.value.manifests, wanted)
            if chosen is None:
                raise NotFound(
                    f"no matching manifest for {wanted} in the manifest list entries of "
                    f"{self._ref.familiar()}"
                )
            current = await manifests.get(
                remote, replace(self._ref, tag=None, digest=chosen.digest)
            )
        if isinstance(current.value, Manifest):
            return current
        raise InvalidParameter(f"cannot use {self._ref.familiar()}: its indexes nest too deep")

    async def _fetch_all(self, remote: Remote, image: Manifest) -> bytes:
        """Download configuration and layers; returns the configuration."""
        if image.config.size > MAX_DOCUMENT_BYTES:
            raise InvalidParameter(
                f"cannot use {self._ref.familiar()}: its configuration has {image.config.size} "
                "bytes"
            )
        async with task_group() as group:
            config = group.create_task(self._config(remote, image.config))
            arrivals: dict[str, Arrival] = {}
            for layer in image.layers:
                if layer.digest not in arrivals:
                    arrival = arrivals[layer.digest] = Arrival()
                    arrival.bring(group.create_task(self._layer(remote, layer, arrival)))
            if self._on_layer:
                await asyncio.wait((config,))
                for index, layer in enumerate(image.layers):
                    coming = LayerComing(index, layer, config.result(), arrivals[layer.digest])
                    await self._on_layer(coming)
        return config.result()

    async def _config(self, remote: Remote, blob: Descriptor) -> bytes:
        await self._downloads.fetch(
            remote,
            self._ref.path,
            blob,
            manifests.pull_scopes(self._ref.path),
            self._content,
            lambda status, current: None,
        )
        data = await asyncio.to_thread(self._content.read_bytes, blob.digest)
        self._check_platform(data)
        return data

    async def _layer(self, remote: Remote, blob: Descriptor, arrival: Arrival) -> None:
        short = digests.short(blob.digest)
        if self._content.has(blob.digest):
            self._report(Progress("Already exists", short))
            return

        def listener(status: str, current: int) -> None:
            shown = status == "Downloading"
            if shown:
                arrival.begin()
            self._report(
                Progress(status, short, current if shown else 0, blob.size if shown else 0)
            )

        await self._downloads.fetch(
            remote,
            self._ref.path,
            blob,
            manifests.pull_scopes(self._ref.path),
            self._content,
            listener,
        )

    def _check_platform(self, config: bytes) -> None:
        """An image that was asked for by platform must be of it, also without an index."""
        if self._wanted is None:
            return
        try:
            said = msgspec.json.decode(config, type=_ConfigProbe)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        actual = Platform(said.architecture, said.os, said.variant)
        if said.architecture and platforms.rank(actual, self._wanted) is None:
            raise NotFound(
                f"image with reference {self._ref.familiar()} was found but does not match the "
                f"specified platform: wanted {self._wanted}, actual: {actual}"
            )

    def _keep(self, top: Document, image: Document) -> None:
        try:
            self._content.write_bytes(image.data)
            if top is not image:
                self._content.write_bytes(top.data)
        except OSError as exc:
            raise failures.out_of_space(exc, f"pull of {self._ref.familiar()}") or exc from exc
