"""Looking into images for the web page: platforms, layers with what made them, differences."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass

import msgspec

from sampan.errors import NotFound
from sampan.hub.layerindex import Entry, LayerIndex, LayerIndexes, merge
from sampan.hub.records import Records, StoredManifest
from sampan.hub.storage import BlobStorage
from sampan.image import manifest as manifests
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest

MAX_CONFIG_BYTES = 4 << 20
MAX_LISTED = 1000
MAX_SUMMARIES = 10_000
_KINDS = {
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
}


class _History(msgspec.Struct):
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False


class _RunConfig(msgspec.Struct, rename="pascal"):
    env: list[str] | None = None
    cmd: list[str] | None = None
    entrypoint: list[str] | None = None
    working_dir: str = ""
    user: str = ""
    exposed_ports: dict[str, object] | None = None
    volumes: dict[str, object] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""


class _Config(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str | None = ""
    author: str = ""
    config: _RunConfig | None = None
    history: list[_History] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of an image's history, with the layer that it made, if it made one."""

    instruction: str
    layer: Descriptor | None


@dataclass(frozen=True, slots=True)
class ImageView:
    """One image for one platform."""

    digest: str
    platform: str
    size: int
    created: str
    author: str
    settings: list[tuple[str, str]]
    labels: dict[str, str]
    steps: list[Step]
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class TagView:
    """What a tag or digest names: one image, or one for each platform."""

    reference: str
    digest: str
    media_type: str
    annotations: dict[str, str]
    images: list[ImageView]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of tags says of one: platforms, and the largest image's size."""

    platforms: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """A difference: what it is about, and its two sides (None where it is not there)."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """How two images differ.  ``more`` counts the file changes that are not listed."""

    settings: list[Change]
    packages: list[Change]
    files: list[Change]
    more: int
    size_change: int


class Inspector:
    """Reads images of the hub.  Reading rights are checked by the caller."""

    def __init__(self, records: Records, storage: BlobStorage, indexes: LayerIndexes) -> None:
        self._records = records
        self._storage = storage
        self._indexes = indexes
        self._summaries: dict[str, Summary] = {}

    async def summary(self, repository: str, digest: str) -> Summary:
        """The summary of a manifest; it never changes, so it is remembered."""
        known = self._summaries.get(digest)
        if known is None:
            images = (await self.tag(repository, digest)).images
            known = Summary(
                tuple(image.platform for image in images),
                max((image.size for image in images), default=0),
            )
            if len(self._summaries) > MAX_SUMMARIES:
                self._summaries.clear()
            self._summaries[digest] = known
        return known

    async def tag(self, repository: str, reference: str) -> TagView:
        """Raises NotFound."""
        stored = await self._manifest(repository, reference)
        try:
            value = manifests.decode(stored.content)
        except InvalidManifest as exc:
            raise NotFound(f"{reference} is not an image: {exc}") from exc
        images = [
            await self._image(repository, digest, manifest, platform)
            for digest, manifest, platform in await self._images(repository, stored, value)
        ]
        return TagView(reference, stored.digest, stored.media_type, value.annotations, images)

    async def layer(self, repository: str, digest: str) -> LayerIndex:
        """The files of a layer.  Raises NotFound, InvalidParameter."""
        size = await self._records.blob_size(repository, digest)
        if size is None:
            raise NotFound(f"there is no layer {digest} in {repository}")
        try:
            return await self._indexes.get(digest, size)
        except FileNotFoundError:
            raise NotFound(f"there is no layer {digest} in {repository}") from None

    async def difference(self, repository: str, before: ImageView, after: ImageView) -> Difference:
        """Compare configuration, packages and files.  Raises NotFound, InvalidParameter."""
        old = [await self.layer(repository, layer.digest) for layer in before.layers]
        new = [await self.layer(repository, layer.digest) for layer in after.layers]
        files = await asyncio.to_thread(_compare_files, old, new)
        return Difference(
            settings=_compare(
                {**dict(before.settings), **before.labels},
                {**dict(after.settings), **after.labels},
            ),
            packages=_compare(_packages(old), _packages(new)),
            files=files[:MAX_LISTED],
            more=max(0, len(files) - MAX_LISTED),
            size_change=after.size - before.size,
        )

    async def _manifest(self, repository: str, reference: str) -> StoredManifest:
        stored = await self._records.manifest(repository, reference)
        if stored is None:
            raise NotFound(f"there is no {reference} in {repository}")
        return stored

    async def _images(
        self, repository: str, stored: StoredManifest, value: Manifest | Index
    ) -> list[tuple[str, Manifest, str]]:
        if isinstance(value, Manifest):
            return [(stored.digest, value, "")]
        found = []
        for child in value.manifests:
            if child.platform and child.platform.architecture == "unknown":
                continue
            inner = await self._records.manifest(repository, child.digest)
            if inner is None:
                continue
            manifest = manifests.decode(inner.content)
            if isinstance(manifest, Manifest):
                found.append((child.digest, manifest, str(child.platform or "")))
        return found

    async def _image(
        self, repository: str, digest: str, manifest: Manifest, platform: str
    ) -> ImageView:
        config = await self._config(repository, manifest.config)
        known = "/".join(part for part in (config.os, config.architecture, config.variant) if part)
        run = config.config or _RunConfig()
        return ImageView(
            digest=digest,
            platform=platform or known or manifest.artifact_type or manifest.config.media_type,
            size=sum(layer.size for layer in manifest.layers) + manifest.config.size,
            created=config.created or "",
            author=config.author,
            settings=_settings(run),
            labels=run.labels or {},
            steps=_steps(config.history or [], manifest.layers),
            layers=manifest.layers,
        )

    async def _config(self, repository: str, blob: Descriptor) -> _Config:
        if blob.size > MAX_CONFIG_BYTES or blob.media_type not in manifests.CONFIG_TYPES:
            return _Config()
        data = bytearray()
        try:
            async for chunk in self._storage.read(blob.digest, 0, blob.size):
                data += chunk
            return msgspec.json.decode(data, type=_Config)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return _Config()


def _steps(history: list[_History], layers: tuple[Descriptor, ...]) -> list[Step]:
    """Pair instructions with layers; layers that the history does not tell of come last."""
    left = list(layers)
    steps = []
    for entry in history:
        layer = None if entry.empty_layer or not left else left.pop(0)
        steps.append(Step(instruction(entry.created_by or entry.comment), layer))
    return steps + [Step("", layer) for layer in left]


def instruction(created_by: str) -> str:
    """A history line as it stood in a Dockerfile."""
    text = created_by.strip().removesuffix("# buildkit").strip()
    nop = "/bin/sh -c #(nop) "
    if text.startswith(nop):
        return text[len(nop) :].strip()
    shell = "/bin/sh -c "
    if text.startswith("RUN " + shell):
        return "RUN " + text[len("RUN " + shell) :]
    return "RUN " + text[len(shell) :] if text.startswith(shell) else text


def _settings(run: _RunConfig) -> list[tuple[str, str]]:
    values = [
        ("ENTRYPOINT", " ".join(run.entrypoint or [])),
        ("CMD", " ".join(run.cmd or [])),
        ("WORKDIR", run.working_dir),
        ("USER", run.user),
        ("EXPOSE", " ".join(sorted(run.exposed_ports or {}))),
        ("VOLUME", " ".join(sorted(run.volumes or {}))),
        ("STOPSIGNAL", run.stop_signal),
    ]
    values += [
        (f"ENV {name}", value)
        for name, _, value in (entry.partition("=") for entry in run.env or [])
    ]
    return [(name, value) for name, value in values if value]


def _packages(layers: list[LayerIndex]) -> dict[str, str]:
    """The topmost package database is the image's."""
    known = [layer.packages for layer in layers if layer.packages is not None]
    return known[-1] if known else {}


def _compare_files(old: list[LayerIndex], new: list[LayerIndex]) -> list[Change]:
    return _compare(
        {path: _describe(entry) for path, entry in merge(old).items()},
        {path: _describe(entry) for path, entry in merge(new).items()},
    )


def _describe(entry: Entry) -> str:
    what = entry.content.hex()[:12] if entry.content else entry.target
    return f"{mode_text(entry)} {entry.owner} {entry.size} {what}".rstrip()


def mode_text(entry: Entry) -> str:
    """Kind and mode of a file as ``ls`` writes them; a hard link is the file that it is."""
    return stat.filemode(_KINDS.get(entry.kind, stat.S_IFREG) | entry.mode)


def _compare(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    names = sorted(before.keys() | after.keys())
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return [Change(name, old, new) for name, old, new in pairs if old != new]
