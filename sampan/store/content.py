"""Blobs under their digest: ``blobs/sha256/<hex>``.

A blob is written aside (``ingest/``), hashed while it is streamed, fsynced and renamed, so that
a name under ``blobs/`` always means complete and verified content.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from sampan.errors import SampanError
from sampan.image.digest import Digest
from sampan.store.leases import Leases


class DigestMismatch(SampanError):
    """What was received is not what was asked for."""


class Ingest:
    """One blob being written.  As a context manager it aborts what was not committed."""

    @property
    def offset(self) -> int:
        """Bytes already here: resume the download from this offset."""
        raise NotImplementedError

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    def commit(self) -> Digest:
        """Make the blob visible; raises DigestMismatch when digest or size are not as expected."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Close, but keep what is here for a later ingest of the same ``ref`` to resume."""
        raise NotImplementedError

    def abort(self) -> None:
        """Throw away what was written.  Does nothing after commit or suspend."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


class ContentStore:
    def __init__(self, root: Path, leases: Leases | None = None) -> None:
        raise NotImplementedError

    def path(self, digest: Digest) -> Path:
        raise NotImplementedError

    def has(self, digest: Digest) -> bool:
        raise NotImplementedError

    def size(self, digest: Digest) -> int:
        """Bytes; raises errors.NotFound."""
        raise NotImplementedError

    def read_bytes(self, digest: Digest) -> bytes:
        """A small blob, verified; raises errors.NotFound or DigestMismatch."""
        raise NotImplementedError

    def open(self, digest: Digest) -> BinaryIO:
        raise NotImplementedError

    def write_bytes(self, data: bytes) -> Digest:
        raise NotImplementedError

    def ingest(
        self, expected: Digest | None = None, size: int | None = None, ref: str | None = None
    ) -> Ingest:
        """Begin a blob.  With ``ref`` (any string) an ingest that was suspended under the same
        ref is resumed: see its ``offset``.  Raises errors.DiskFull from its writes."""
        raise NotImplementedError

    def delete(self, digest: Digest) -> int:
        """Remove a blob if it is here; returns its size in bytes."""
        raise NotImplementedError

    def walk(self) -> Iterator[Digest]:
        raise NotImplementedError
