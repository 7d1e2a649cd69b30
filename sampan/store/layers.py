"""Blobs of layers: decompressed, compressed, and made from a snapshot."""

from __future__ import annotations

from typing import BinaryIO, Literal

import msgspec

from sampan.image.digest import Digest
from sampan.image.manifest import Descriptor
from sampan.store.content import ContentStore
from sampan.store.metadata import Metadata

Algorithm = Literal["gzip", "zstd"]


class LayerRef(msgspec.Struct, frozen=True):
    """A layer of an image: the digest of its uncompressed tar, and the blob that holds it (which
    may be compressed, or the tar itself)."""

    diff_id: Digest
    blob: Descriptor


class LayerStore:
    def __init__(self, content: ContentStore, metadata: Metadata) -> None:
        raise NotImplementedError

    def open(self, layer: LayerRef) -> BinaryIO:
        """The uncompressed tar as a stream, verified against the diff ID at its end."""
        raise NotImplementedError

    def compressed(self, layer: LayerRef, algorithm: Algorithm = "gzip") -> Descriptor:
        """A compressed blob of the layer, made now if there is none (the same bytes each time).
        Blocks: call it in a thread."""
        raise NotImplementedError
