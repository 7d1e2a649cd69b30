"""The two layouts of image archives, as values and JSON; reading and writing files is the store's.

``docker save`` has a ``manifest.json`` that lists, for each image, the paths of its configuration
and layers and its tags.  An OCI image layout has ``oci-layout``, ``index.json`` and
``blobs/<algorithm>/<hex>``.  Since Docker 25 an archive is both at once; so is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sampan.image import manifest as media
from sampan.image.digest import Digest, is_digest, split
from sampan.image.manifest import Descriptor, Index
from sampan.image.reference import InvalidReference, Reference

DOCKER_MANIFEST = "manifest.json"
OCI_LAYOUT = "oci-layout"
OCI_INDEX = "index.json"
LAYOUT_DOCUMENT = b'{"imageLayoutVersion":"1.0.0"}'


class InvalidArchive(ValueError):
    """The archive is not one of images, or is not complete."""


class DockerItem(msgspec.Struct, rename="pascal"):
    """One image in ``manifest.json``; paths are relative to the archive's root."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


def read_docker_manifest(data: bytes) -> list[DockerItem]:
    """Raises InvalidArchive."""
    try:
        return msgspec.json.decode(data, type=list[DockerItem])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArchive(f"malformed {DOCKER_MANIFEST}: {error}") from None


def read_index(data: bytes) -> Index:
    """Raises InvalidArchive."""
    try:
        return msgspec.json.decode(data, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArchive(f"malformed {OCI_INDEX}: {error}") from None


def blob_path(digest: Digest) -> str:
    algorithm, encoded = split(digest)
    return f"blobs/{algorithm}/{encoded}"


def digest_of_path(path: str) -> Digest | None:
    """The digest that a path of an OCI layout states."""
    parts = path.split("/")
    if len(parts) == 3 and parts[0] == "blobs" and is_digest(f"{parts[1]}:{parts[2]}"):
        return f"{parts[1]}:{parts[2]}"
    return None


def names_of(descriptor: Descriptor) -> list[Reference]:
    """The names that an index entry carries: a whole one, or a bare tag that names nothing."""
    for key in (media.CONTAINERD_NAME, media.REF_NAME):
        text = descriptor.annotations.get(key, "")
        if key == media.REF_NAME and "/" not in text and ":" not in text:
            continue
        try:
            return [Reference.parse(text)]
        except InvalidReference:
            continue
    return []


def index_entries(manifest: Descriptor, names: Sequence[Reference]) -> list[Descriptor]:
    """The entries of an image in ``index.json``, one a name."""
    if not names:
        return [manifest]
    return [
        msgspec.structs.replace(
            manifest,
            annotations={
                media.CONTAINERD_NAME: str(name),
                media.REF_NAME: name.tag or "latest",
            },
        )
        for name in names
    ]
