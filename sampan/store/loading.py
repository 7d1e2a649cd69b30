"""Reading an archive of images, in one pass, into the content store.

Members come in any order and are named only at the end, so each is stored as it passes: large ones
as blobs, small ones in memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from sampan.image import archive, tar
from sampan.image import config as image_config
from sampan.image import manifest as media
from sampan.image.archive import InvalidArchive
from sampan.image.compression import decompressed, recognise
from sampan.image.digest import Digest, sha256, short
from sampan.image.manifest import Descriptor, Index, Manifest
from sampan.image.reference import InvalidReference, Reference
from sampan.image.tar import StreamCursor
from sampan.progress import Progress, Report
from sampan.store.images import ImageStore
from sampan.store.layers import LayerRef

_SMALL = 1 << 20
_SMALL_TOTAL = 64 << 20
_REPORT_EVERY = 4 << 20
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image of the archive, its blobs in the content store."""

    config: bytes
    layers: list[LayerRef]
    manifest: bytes | None
    names: list[Reference]


def read_archive(stream: BinaryIO, images: ImageStore, report: Report) -> list[Loaded]:
    """Blocks.  Raises InvalidTar, CorruptStream, InvalidArchive, InvalidManifest or
    DigestMismatch, all of which mean that the archive is bad."""
    members = _Members(images, report)
    with decompressed(stream, images.layers.max_size) as plain:
        members.read(plain)
    return _Reader(members, images).images()


class _Members:
    """The files of the archive by path."""

    def __init__(self, images: ImageStore, report: Report) -> None:
        self._content = images.content
        self._report = report
        self._data: dict[str, bytes] = {}
        self._held = 0
        self._blobs: dict[str, tuple[Digest, int]] = {}
        self._links: dict[str, str] = {}

    def read(self, stream: BinaryIO) -> None:
        cursor = StreamCursor(stream)
        for entry in tar.entries(cursor):
            path = os.path.normpath("/" + os.fsdecode(entry.name)).lstrip("/")
            if entry.type == tar.REGULAR:
                self._take(path, entry.size, cursor)
            elif entry.type == tar.SYMLINK:
                target = os.path.join("/", os.path.dirname(path), os.fsdecode(entry.linkname))
                self._links[path] = os.path.normpath(target).lstrip("/")
            elif entry.type == tar.HARDLINK:
                target = os.fsdecode(entry.linkname)
                self._links[path] = os.path.normpath("/" + target).lstrip("/")
        cursor.drain()

    def _take(self, path: str, size: int, cursor: StreamCursor) -> None:
        stated = archive.digest_of_path(path)
        if stated is not None and size > _SMALL and self._content.has(stated):
            self._blobs[path] = (stated, size)
            self._report(Progress("Already exists", short(stated)))
            return
        if size <= _SMALL and self._held + size <= _SMALL_TOTAL:
            self._data[path] = cursor.read(size)
            self._held += size
            return
        row = short(stated) if stated else path.split("/")[0][:12]
        with self._content.ingest(stated, size) as ingest:
            reported = 0
            for chunk in cursor.chunks(size):
                ingest.write(chunk)
                if ingest.offset - reported >= _REPORT_EVERY:
                    reported = ingest.offset
                    self._report(Progress("Loading layer", row, reported, size))
            self._blobs[path] = (ingest.commit(), size)
        self._report(Progress("Loading layer", row, size, size))

    def has(self, path: str) -> bool:
        path = self._resolve(path)
        return path in self._data or path in self._blobs

    def document(self, path: str) -> bytes:
        """A small file; raises InvalidArchive when it is missing."""
        path = self._resolve(path)
        if path in self._data:
            return self._data[path]
        if path in self._blobs:
            return self._content.read_bytes(self._blobs[path][0])
        raise InvalidArchive(f"it has no {path}")

    def blob(self, path: str) -> tuple[Digest, int]:
        """Digest and size of a file, which is a blob of the content store from now."""
        path = self._resolve(path)
        if path not in self._blobs:
            data = self.document(path)
            self._blobs[path] = (self._content.write_bytes(data), len(data))
        return self._blobs[path]

    def _resolve(self, path: str) -> str:
        path = os.path.normpath("/" + path).lstrip("/")
        for _ in range(8):
            if path not in self._links:
                return path
            path = self._links[path]
        raise InvalidArchive(f"{path} is a loop of links")


class _Reader:
    """From files to images."""

    def __init__(self, members: _Members, images: ImageStore) -> None:
        self._members = members
        self._content = images.content

    def images(self) -> list[Loaded]:
        """By the OCI index if there is one (it keeps manifests and their digests), with the tags
        of ``manifest.json`` added."""
        listed: list[archive.DockerItem] = []
        if self._members.has(archive.DOCKER_MANIFEST):
            listed = archive.read_docker_manifest(self._members.document(archive.DOCKER_MANIFEST))
        found: dict[Digest, Loaded] = {}
        if self._members.has(archive.OCI_INDEX):
            index = archive.read_index(self._members.document(archive.OCI_INDEX))
            for entry in index.manifests:
                self._add_oci(entry, archive.names_of(entry), found)
        elif not listed:
            raise InvalidArchive("it has neither manifest.json nor index.json")
        for item in listed:
            self._add_docker(item, found)
        if not found:
            raise InvalidArchive("it holds no image")
        return list(found.values())

    def _add_oci(
        self, entry: Descriptor, names: list[Reference], found: dict[Digest, Loaded]
    ) -> None:
        if _ATTESTATION in entry.annotations:
            return
        data = self._stated(entry)
        document = media.decode(data)
        if isinstance(document, Index):
            for inner in document.manifests:
                # An index may name platforms that the archive leaves out.
                if self._members.has(archive.blob_path(inner.digest)):
                    self._add_oci(inner, names, found)
            return
        if document.config.media_type not in media.CONFIG_TYPES:
            return
        known = found.get(document.config.digest)
        if known is not None:
            known.names.extend(name for name in names if name not in known.names)
            return
        config = self._stated(document.config)
        layers = self._oci_layers(document, config)
        found[document.config.digest] = Loaded(config, layers, data, list(names))

    def _oci_layers(self, manifest: Manifest, config: bytes) -> list[LayerRef]:
        diff_ids = _diff_ids(config)
        if len(diff_ids) != len(manifest.layers):
            raise InvalidArchive("a manifest and its configuration disagree on the layers")
        layers: list[LayerRef] = []
        for diff_id, blob in zip(diff_ids, manifest.layers, strict=True):
            if not self._content.has(blob.digest):
                digest, _ = self._members.blob(archive.blob_path(blob.digest))
                if digest != blob.digest:
                    raise InvalidArchive(f"the blob {blob.digest} has the digest {digest}")
            layers.append(LayerRef(diff_id, blob))
        return layers

    def _stated(self, descriptor: Descriptor) -> bytes:
        data = self._members.document(archive.blob_path(descriptor.digest))
        if sha256(data) != descriptor.digest:
            raise InvalidArchive(f"the blob {descriptor.digest} has the digest {sha256(data)}")
        return data

    def _add_docker(self, item: archive.DockerItem, found: dict[Digest, Loaded]) -> None:
        config = self._members.document(item.config)
        names = _names(item.repo_tags or [])
        known = found.get(sha256(config))
        if known is not None:
            known.names.extend(name for name in names if name not in known.names)
            return
        diff_ids = _diff_ids(config)
        if len(diff_ids) != len(item.layers):
            raise InvalidArchive("manifest.json and a configuration disagree on the layers")
        layers = [
            LayerRef(diff_id, self._docker_layer(path, diff_id))
            for diff_id, path in zip(diff_ids, item.layers, strict=True)
        ]
        found[sha256(config)] = Loaded(config, layers, None, names)

    def _docker_layer(self, path: str, diff_id: Digest) -> Descriptor:
        if not self._members.has(path) and self._content.has(diff_id):
            return Descriptor(media.OCI_LAYER, diff_id, self._content.size(diff_id))
        digest, size = self._members.blob(path)
        if digest == diff_id:
            return Descriptor(media.OCI_LAYER, digest, size)
        with self._content.open(digest) as stream:
            kind = recognise(stream.read(6))
        if kind == "none":
            raise InvalidArchive(f"the layer {path} has digest {digest} instead of {diff_id}")
        media_type = media.OCI_LAYER_ZSTD if kind == "zstd" else media.OCI_LAYER_GZIP
        return Descriptor(media_type, digest, size)


def _diff_ids(config: bytes) -> list[Digest]:
    try:
        return list(image_config.decode(config).rootfs.diff_ids)
    except image_config.InvalidConfig as error:
        raise InvalidArchive(str(error)) from error


def _names(tags: list[str]) -> list[Reference]:
    try:
        return [Reference.parse(tag) for tag in tags]
    except InvalidReference as error:
        raise InvalidArchive(str(error)) from error
