"""Archives of images: save, load and import."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence

from sampan.image.config import ImageConfig
from sampan.image.reference import Reference
from sampan.progress import Report, ignore
from sampan.store.images import Image, ImageStore


class Archives:
    def __init__(self, images: ImageStore) -> None:
        raise NotImplementedError

    def save(self, images: Iterable[tuple[Image, Sequence[Reference]]]) -> AsyncIterator[bytes]:
        """A tar with these images under these names: an OCI image layout that is also what
        ``docker save`` writes (``manifest.json`` and ``repositories``)."""
        raise NotImplementedError

    async def load(self, stream: AsyncIterable[bytes], report: Report = ignore) -> list[Image]:
        """The images of a tar (compressed or not) in either layout, registered with their names.
        Raises errors.InvalidParameter for anything else."""
        raise NotImplementedError

    async def import_(
        self,
        stream: AsyncIterable[bytes],
        config: ImageConfig,
        reference: Reference | None = None,
        report: Report = ignore,
    ) -> Image:
        """An image of one layer, the root file system in the tar (compressed or not).  ``config``
        says the rest; its ``rootfs`` and ``history`` are filled in here."""
        raise NotImplementedError
