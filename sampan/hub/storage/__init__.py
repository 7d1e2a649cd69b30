"""Where the bytes of blobs and of uploads are.

A storage knows no records: it keeps bytes under an upload's id while they arrive, and under their
digest when the upload is finished.  It does not check digests; its caller hashes what it writes.

    await storage.begin(upload)
    async with storage.append(upload, 0, hasher) as sink:
        await sink.write([b"…", b"…"])
    await storage.finish(upload, digest)
    async for data in storage.read(digest, 0, size): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol


class Hasher(Protocol):
    """The part of a :mod:`hashlib` object that a storage needs."""

    def update(self, data: bytes, /) -> None: ...


class Busy(Exception):
    """Another request is writing to the same upload."""


class Sink(Protocol):
    """An upload that is being appended to."""

    async def write(self, batch: list[bytes]) -> None:
        """Hash and append; the batch is not changed.  Raises OSError (disk full included)."""


class BlobStorage(Protocol):
    """All methods may be called concurrently.

    ``exclusive``: whether ``append`` itself keeps a second writer out, also of another process.
    """

    exclusive: bool

    async def begin(self, upload: str) -> None:
        """Make an empty upload."""

    async def size(self, upload: str) -> int | None:
        """Bytes of an upload that are kept; None when it does not exist."""

    def append(self, upload: str, offset: int, hasher: Hasher) -> AbstractAsyncContextManager[Sink]:
        """Append at ``offset``, which is the upload's size.

        What was written is kept when the block is left, also by an exception.  Raises Busy, and
        FileNotFoundError when there is no such upload.
        """

    def read_upload(self, upload: str) -> AsyncIterator[bytes]:
        """The bytes of an upload, to hash them anew."""

    async def finish(self, upload: str, digest: str) -> None:
        """Turn an upload into a blob, durably and atomically."""

    async def discard(self, upload: str) -> None:
        """Remove an upload if it is there."""

    async def abandoned(self, older_than: float) -> list[str]:
        """Uploads that nothing was written to for ``older_than`` seconds."""

    def local_path(self, digest: str) -> Path | None:
        """The file that holds a blob, if it is one that sendfile can serve."""

    async def redirect(self, digest: str) -> str | None:
        """A URL at which a client may fetch the blob itself, if there is one."""

    def read(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes [start, end) of a blob.  Raises FileNotFoundError."""

    async def remove(self, digest: str) -> None:
        """Remove a blob's bytes if they are there."""

    def blobs(self) -> AsyncIterator[tuple[str, int]]:
        """All blobs: digest and size."""

    async def close(self) -> None:
        """Let go of what is open."""
