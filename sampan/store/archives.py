"""Archives of images: save, load and import."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

from sampan.errors import InvalidParameter
from sampan.image import archive, tar, tarwrite
from sampan.image import config as image_config
from sampan.image import manifest as media
from sampan.image.compression import CorruptStream
from sampan.image.config import History, ImageConfig, RootFS
from sampan.image.digest import sha256, short
from sampan.image.manifest import Descriptor, Index, Manifest
from sampan.image.reference import Reference
from sampan.image.tar import Entry, InvalidTar
from sampan.progress import Progress, Report, ignore
from sampan.store.bridge import in_thread
from sampan.store.content import DigestMismatch
from sampan.store.images import Image, ImageStore
from sampan.store.layers import LayerRef
from sampan.store.loading import Loaded, read_archive

_CHUNK = 2 << 20


class Archives:
    def __init__(self, images: ImageStore) -> None:
        self._images = images
        self._content = images.content

    # Save

    async def save(
        self, images: Iterable[tuple[Image, Sequence[Reference]]], report: Report = ignore
    ) -> AsyncIterator[bytes]:
        """A tar with these images under these names: an OCI image layout that is also what
        ``docker save`` writes.  Layers go out as they are stored."""
        entries: list[Descriptor] = []
        listed: list[dict[str, object]] = []
        written: set[str] = set()
        yield _file(archive.OCI_LAYOUT, archive.LAYOUT_DOCUMENT)
        for image, names in images:
            data = self._manifest(image)
            manifest = media.decode_manifest(data)
            for blob in manifest.layers:
                if blob.digest not in written:
                    written.add(blob.digest)
                    async for chunk in self._blob(blob, report):
                        yield chunk
            for document in (image.raw_config, data):
                digest = sha256(document)
                if digest not in written:
                    written.add(digest)
                    yield _file(archive.blob_path(digest), document)
            described = Descriptor(media.media_type_of(data), sha256(data), len(data))
            entries += archive.index_entries(described, names)
            listed.append(
                {
                    "Config": archive.blob_path(image.id),
                    "RepoTags": [name.familiar() for name in names] or None,
                    "Layers": [archive.blob_path(layer.digest) for layer in manifest.layers],
                }
            )
        index = Index(schema_version=2, manifests=tuple(entries))
        yield _file(archive.OCI_INDEX, media.encode(index))
        yield _file(archive.DOCKER_MANIFEST, msgspec.json.encode(listed))
        yield tarwrite.END

    def _manifest(self, image: Image) -> bytes:
        """The manifest the image came with when its blobs are all here, else one over what is."""
        if image.manifest is not None and self._content.has(image.manifest.digest):
            data = self._content.read_bytes(image.manifest.digest)
            if all(self._content.has(blob.digest) for blob in media.decode_manifest(data).layers):
                return data
        layers = self._images.layers_of(image.id)
        config = Descriptor(media.OCI_CONFIG, image.id, len(image.raw_config))
        blobs = tuple(self._images.layers.present(layer) for layer in layers)
        return media.encode(Manifest(schema_version=2, config=config, layers=blobs))

    async def _blob(self, blob: Descriptor, report: Report) -> AsyncIterator[bytes]:
        yield tarwrite.header(Entry(archive.blob_path(blob.digest).encode(), size=blob.size))
        row = short(blob.digest)
        sent = 0
        with self._content.open(blob.digest) as stream:
            while chunk := await asyncio.to_thread(stream.read, _CHUNK):
                sent += len(chunk)
                report(Progress("Saving", row, sent, blob.size))
                yield chunk
        if sent != blob.size:
            raise DigestMismatch(f"the blob {blob.digest} is damaged on disk")
        yield tarwrite.padding(blob.size)

    # Load

    async def load(self, stream: AsyncIterable[bytes], report: Report = ignore) -> list[Image]:
        """The images of a tar (compressed or not) in either layout, registered with their names.
        Raises errors.InvalidParameter for anything else, and then keeps nothing."""

        def read(source: BinaryIO) -> list[Loaded]:
            try:
                return read_archive(source, self._images, report)
            except (InvalidTar, CorruptStream) as error:
                raise InvalidParameter(f"cannot load the archive: {error}") from error
            except (archive.InvalidArchive, media.InvalidManifest, DigestMismatch) as error:
                raise InvalidParameter(f"cannot load the archive: {error}") from error

        async with self._images.attempt():
            loaded = await in_thread(stream, read)
            images: list[Image] = []
            for item in loaded:
                try:
                    image = await self._images.admit(
                        item.config, item.layers, item.manifest, item.names, report=report
                    )
                except DigestMismatch as error:
                    raise InvalidParameter(f"cannot load the archive: {error}") from error
                images.append(image)
        return images

    # Import

    async def import_(
        self,
        stream: AsyncIterable[bytes],
        config: ImageConfig,
        reference: Reference | None = None,
        report: Report = ignore,
    ) -> Image:
        """An image of one layer, the root file system in the tar (compressed or not).  ``config``
        says the rest; its ``rootfs``, ``history`` and missing time and platform are filled in."""

        def read(source: BinaryIO) -> LayerRef:
            try:
                return self._images.layers.from_stream(source)
            except CorruptStream as error:
                raise InvalidParameter(f"cannot import the archive: {error}") from error

        async with self._images.attempt():
            layer = await in_thread(stream, read)
            created = config.created or datetime.now(UTC).isoformat().replace("+00:00", "Z")
            whole = msgspec.structs.replace(
                config,
                created=created,
                architecture=config.architecture or architecture(),
                os=config.os or "linux",
                rootfs=RootFS(diff_ids=[layer.diff_id]),
                history=[History(created=created, comment=config.comment)],
            )
            names = [reference] if reference is not None else []
            return await self._images.admit(
                image_config.encode(whole), [layer], None, names, report=report
            )


def architecture() -> str:
    """This machine's architecture as images name it."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(
        machine, machine
    )


def _file(path: str, data: bytes) -> bytes:
    entry = Entry(path.encode(), tar.REGULAR, size=len(data))
    return tarwrite.header(entry) + data + tarwrite.padding(len(data))
