"""Descriptors, manifests and indexes (OCI image-spec 1.1, and Docker schema 2 which is the same
shape under other media types).

Values are frozen; to change one, make a new one with :func:`msgspec.structs.replace`.  The bytes
as received are what has a digest: keep them, and decode only to look inside.
"""

from __future__ import annotations

import msgspec

from sampan.image.digest import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
LAYER_TYPES = (
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER + ".zstd",
)

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class InvalidManifest(ValueError):
    """The bytes are not a manifest or index of a kind we know."""


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """A platform (image-index.md); empty strings mean "not said"."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What and where a piece of content is: type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str = ""
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """One image for one platform: its config and its layers, lowest first."""

    schema_version: int
    media_type: str = OCI_MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """Several manifests under one digest, mostly one a platform."""

    schema_version: int
    media_type: str = OCI_INDEX
    manifests: tuple[Descriptor, ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class _Probe(msgspec.Struct, rename="camel"):
    """Just enough to tell the kinds apart, for documents that leave out ``mediaType``."""

    schema_version: int = 0
    media_type: str = ""
    config: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()


def media_type_of(data: bytes) -> str:
    """The media type of a manifest or index, from itself; raises InvalidManifest."""
    try:
        probe = msgspec.json.decode(data, type=_Probe)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"not a manifest: {error}") from None
    if probe.schema_version == 1:
        raise InvalidManifest(
            "manifest schema 1 is obsolete and not supported: push the image anew"
        )
    if bytes(probe.config) and bytes(probe.manifests):
        raise InvalidManifest("ambiguous manifest: it has both a config and a list of manifests")
    if probe.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):
        return probe.media_type
    if bytes(probe.manifests):
        return OCI_INDEX
    if bytes(probe.config):
        return OCI_MANIFEST
    raise InvalidManifest(f"unsupported manifest media type {probe.media_type!r}")


def decode(data: bytes) -> Manifest | Index:
    """Decode a manifest or an index; raises InvalidManifest."""
    kind = media_type_of(data)
    model: type[Manifest] | type[Index] = Index if kind in INDEX_TYPES else Manifest
    try:
        return msgspec.json.decode(data, type=model)
    except msgspec.ValidationError as error:
        raise InvalidManifest(f"malformed manifest: {error}") from None


def decode_manifest(data: bytes) -> Manifest:
    """Decode the manifest of one image; raises InvalidManifest, also when it is an index."""
    value = decode(data)
    if not isinstance(value, Manifest):
        raise InvalidManifest("an index where the manifest of one image is expected")
    return value


def encode(value: Manifest | Index) -> bytes:
    """The document as we write it; ``mediaType`` is always said."""
    document = msgspec.to_builtins(value)
    document["mediaType"] = value.media_type
    head = {key: document.pop(key) for key in ("schemaVersion", "mediaType")}
    return msgspec.json.encode({**head, **document})


def is_compressed(media_type: str) -> bool:
    return media_type.endswith(("gzip", "zstd"))
