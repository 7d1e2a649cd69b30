"""The image database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from sampan.image import config as image_config
from sampan.image.config import ImageConfig
from sampan.image.digest import Digest
from sampan.image.manifest import Descriptor
from sampan.image.reference import Reference
from sampan.progress import Report, ignore
from sampan.store.content import ContentStore
from sampan.store.layers import LayerRef as LayerRef
from sampan.store.layers import LayerStore
from sampan.store.leases import Leases
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Snapshotter


@dataclass(frozen=True)
class Image:
    """An image as stored.  ``size`` is the sum of its layers' file sizes in bytes, ``created`` the
    configuration's RFC 3339 time (empty when it has none)."""

    id: Digest
    manifest: Descriptor | None
    size: int
    created: str
    parent: Digest | None
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    raw_config: bytes

    @cached_property
    def config(self) -> ImageConfig:
        return image_config.decode(self.raw_config)


class ImageStore:
    def __init__(
        self,
        content: ContentStore,
        metadata: Metadata,
        snapshotter: Snapshotter,
        leases: Leases | None = None,
    ) -> None:
        raise NotImplementedError

    layers: LayerStore
    content: ContentStore
    snapshotter: Snapshotter

    def get(self, name: str | Reference) -> Image:
        """An image by reference, ``name@digest``, ID or unique prefix of an ID.  Raises
        errors.NotFound, or errors.InvalidParameter when a prefix fits several."""
        raise NotImplementedError

    def list(self) -> list[Image]:
        raise NotImplementedError

    def children(self, image_id: Digest) -> list[Digest]:
        raise NotImplementedError

    def layers_of(self, image_id: Digest) -> list[LayerRef]:
        """The layers, lowest first."""
        raise NotImplementedError

    def tag(self, image_id: Digest, reference: Reference) -> Digest | None:
        """Point a name at an image; returns the ID of the image that had it before, if another."""
        raise NotImplementedError

    def untag(self, reference: Reference) -> Digest:
        """Remove a tag or a repository digest; returns the image's ID.  Raises errors.NotFound."""
        raise NotImplementedError

    def delete(self, image_id: Digest) -> list[str]:
        """Remove the image's record with all its names, which are returned.  Its content goes
        with the next :meth:`gc`."""
        raise NotImplementedError

    def register(
        self,
        config: bytes,
        layers: Iterable[LayerRef],
        manifest: bytes | None,
        refs: Iterable[Reference],
        parent: Digest | None = None,
    ) -> Image:
        """Record an image whose layers' blobs are in the content store, in one transaction.  With
        no manifest one is made.  A reference with a tag becomes its tag, one with a digest a
        repository digest.  The same image again only adds to what is known of it."""
        raise NotImplementedError

    async def unpack(self, image: Image, report: Report = ignore) -> Digest | None:
        """Apply the layers that the snapshotter does not have; returns the chain ID to prepare
        containers on, None for an image without layers."""
        raise NotImplementedError

    async def commit_layer(self, key: str, *, clamp_mtime: int | None = None) -> LayerRef:
        """The diff of an active or committed snapshot as a layer tar in the content store."""
        raise NotImplementedError

    @contextmanager
    def lease(self) -> Iterator[None]:
        """What is added or found while it is open is safe from :meth:`gc`."""
        raise NotImplementedError

    async def gc(self) -> int:
        """Free what no image, container, build or lease reaches; returns the bytes freed."""
        raise NotImplementedError
