"""A check of the whole store: every digest, reference, snapshot and record; and repair.

Repair never loses what is sound: a damaged blob is deleted so that the next pull or load brings it
again, what can be made again (metadata images, configurations) is, and a snapshot without its
files gives its name up so that its layer is applied anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.errors import Conflict, NotFound
from sampan.image.digest import split
from sampan.store.content import ContentStore
from sampan.store.images import Image, ImageStore
from sampan.store.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in a sentence, and whether it is no more."""

    text: str
    repaired: bool = False


def check(metadata: Metadata, images: ImageStore, *, repair: bool = False) -> list[Problem]:
    """Look at everything; blocks for as long as reading all blobs takes.  Nothing else may write
    to the store meanwhile when it is to be repaired."""
    found = list(_database(metadata))
    found += _blobs(images.content, repair)
    for image in images.list():
        found += _image(images, image, repair)
    found += _indexes(metadata, images, repair)
    found += _tars(metadata, images, repair)
    found += _snapshots(images, repair)
    return found


def _database(metadata: Metadata) -> Iterator[Problem]:
    for (text,) in metadata.query("PRAGMA integrity_check"):
        if text != "ok":
            yield Problem(f"the database is damaged: {text}")
    for row in metadata.query("PRAGMA foreign_key_check"):
        yield Problem(f"the database has a dangling reference in {row[0]}")


def _blobs(content: ContentStore, repair: bool) -> Iterator[Problem]:
    for digest in list(content.walk()):
        try:
            sound = content.sound(digest)
        except ValueError:
            sound = False
        if not sound:
            if repair:
                content.delete(digest)
            yield Problem(f"the blob {digest} is damaged", repair)


def _image(images: ImageStore, image: Image, repair: bool) -> Iterator[Problem]:
    if not images.content.has(image.id):
        if repair:
            images.content.write_bytes(image.raw_config)
        yield Problem(f"the image {image.id} lacks its configuration's blob", repair)
    if image.manifest is not None and not images.content.has(image.manifest.digest):
        if repair:
            images.forget_manifest(image.id)
        yield Problem(f"the image {image.id} lacks its manifest {image.manifest.digest}", repair)
    for layer in images.layers_of(image.id):
        try:
            images.layers.present(layer)
        except NotFound:
            yield Problem(
                f"the image {image.id} lacks its layer {layer.diff_id}: pull or load it again"
            )


def _indexes(metadata: Metadata, images: ImageStore, repair: bool) -> Iterator[Problem]:
    for name, digest in metadata.query("SELECT name, digest FROM tag_indexes"):
        if images.content.has(digest):
            continue
        if repair:
            with metadata.transaction() as connection:
                connection.execute("DELETE FROM tag_indexes WHERE name = ?", (name,))
                connection.execute("DELETE FROM variants WHERE name = ?", (name,))
        yield Problem(f"the tag {name} lacks its index {digest}", repair)


def _tars(metadata: Metadata, images: ImageStore, repair: bool) -> Iterator[Problem]:
    """Layers that snapshots keep as tars are as their digests say."""
    content, snapshotter = images.content, images.snapshotter
    for chain, diff_id in metadata.query("SELECT DISTINCT chain_id, diff_id FROM image_layers"):
        try:
            tar = snapshotter.layer_tar(chain)
        except NotFound:
            continue
        if tar is None or not tar.exists():
            continue
        blob = content.path(diff_id)
        if blob.exists() and blob.samefile(tar):
            continue  # it was looked at as a blob
        with tar.open("rb") as stream:
            found = hashlib.file_digest(stream, split(diff_id)[0]).hexdigest()
        if found == split(diff_id)[1]:
            continue
        text = f"the unpacked layer {diff_id} is damaged"
        if not repair:
            yield Problem(text)
            continue
        try:
            snapshotter.remove(chain)
            yield Problem(text, True)
        except (Conflict, NotFound):
            yield Problem(f"{text}; it is in use: remove what uses it")


def _snapshots(images: ImageStore, repair: bool) -> Iterator[Problem]:
    for name, text in images.snapshotter.check(repair):
        if not repair or not name:
            yield Problem(text, repair)
            continue
        try:
            images.snapshotter.remove(name)
            yield Problem(text, True)
        except (Conflict, NotFound):
            yield Problem(f"{text}; it is in use: remove what uses it")
