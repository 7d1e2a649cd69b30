"""Blobs under their digest: ``blobs/sha256/<hex>``.

A blob is written aside (``ingest/``), hashed while it is streamed, fsynced and renamed, so that
a name under ``blobs/`` always means complete and verified content.  A blob never changes: it is
read-only and may be hard-linked from elsewhere in the state directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from sampan.errors import DiskFull, NotFound, SampanError
from sampan.image import digest as digests
from sampan.image.digest import Digest
from sampan.linux.sync import begin_writing
from sampan.store.arriving import ArrivingStream, Flow
from sampan.store.hashing import Hasher
from sampan.store.leases import Leases

_BLOCK = 1 << 20
_WRITEBACK = 16 << 20
"""How much is written before the kernel is told to begin bringing it to the disk."""
_APART = 1 << 19
"""From this many bytes at once on, pieces are hashed in another thread."""
_VECTOR = 1024  # IOV_MAX
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DigestMismatch(SampanError):
    """What was received is not what was asked for."""


class DamagedBlob(DigestMismatch):
    """A blob's bytes on disk are not what its name says."""


@contextmanager
def disk_full_as_error(where: Path) -> Iterator[None]:
    """Turn "no space left" into errors.DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no space left on the disk that holds {where}") from error
        raise


def fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Ingest:
    """One blob being written.  As a context manager it aborts what was not committed."""

    def __init__(
        self,
        store: ContentStore,
        path: Path,
        expected: Digest | None,
        size: int | None,
        resumable: bool,
    ) -> None:
        self._store = store
        self.path = path
        self.expected = expected
        self._size = size
        self._fd = -1
        self._resumable = resumable
        self._hash = hashlib.new(digests.split(expected)[0] if expected else "sha256")
        self._hasher: Hasher | None = None
        with disk_full_as_error(store.root):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._offset = self._rehash()
        except BaseException:
            os.close(self._fd)
            raise
        self._begun = self._offset
        self._flow = Flow(size, self._offset) if expected and size is not None else None

    def _rehash(self) -> int:
        """Hash what an earlier ingest left; returns its length."""
        offset = 0
        while block := os.pread(self._fd, _BLOCK, offset):
            self._hash.update(block)
            offset += len(block)
        os.lseek(self._fd, offset, os.SEEK_SET)
        return offset

    @property
    def offset(self) -> int:
        """Bytes already here: resume the download from this offset."""
        return self._offset

    @property
    def digest(self) -> Digest:
        """The digest of what is here so far."""
        self._hashed()
        return f"{self._hash.name}:{self._hash.hexdigest()}"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; raises DigestMismatch as soon as it is more than the expected size."""
        self._hashed()
        view = memoryview(data).cast("B")
        self._grow(len(view))
        self._hash.update(view)
        self._put([view])

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append several at once; many bytes are hashed while later ones are written."""
        size = sum(len(piece) for piece in pieces)
        if self._hasher is None and size < _APART:
            self.write(b"".join(pieces))
            return
        if self._hasher is None:
            self._hasher = Hasher(self._hash, self._fd, self._offset)
        self._grow(size)
        for start in range(0, len(pieces), _VECTOR):
            self._put(pieces[start : start + _VECTOR])
        self._hasher.written(self._offset)

    def _hashed(self) -> None:
        """Wait until all that was written has been hashed."""
        hasher, self._hasher = self._hasher, None
        if hasher is not None:
            hasher.finish()

    def _grow(self, size: int) -> None:
        if self._size is not None and self._offset + size > self._size:
            raise DigestMismatch(
                f"{self.expected or 'the blob'} is longer than the {self._size} bytes it should be"
            )
        self._offset += size

    def _put(self, pieces: Sequence[bytes | memoryview]) -> None:
        try:
            with disk_full_as_error(self._store.root):
                done = os.writev(self._fd, pieces)
                if done < sum(len(piece) for piece in pieces):
                    self._put_rest(pieces, done)
            if self._flow is not None:
                self._flow.advance(self._offset)
            if self._offset - self._begun >= _WRITEBACK:
                begin_writing(self._fd, self._begun, self._offset - self._begun)
                self._begun = self._offset
        except DiskFull:
            self.restart()  # a part kept for resuming would keep the disk full
            raise

    def _put_rest(self, pieces: Sequence[bytes | memoryview], done: int) -> None:
        for piece in pieces:
            view = memoryview(piece)[done:]
            done = max(0, done - len(piece))
            while view:
                view = view[os.write(self._fd, view) :]

    def restart(self) -> None:
        """Forget what is here, for a source that cannot resume."""
        self._hashed()
        if self._flow is not None:
            self._flow.end()
            self._flow = None
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.new(self._hash.name)
        self._offset = self._begun = 0

    def commit(self) -> Digest:
        """Make the blob visible; raises DigestMismatch when digest or size are not as expected,
        after which nothing of it is left."""
        actual = self.digest
        try:
            if self._size is not None and self._offset != self._size:
                raise DigestMismatch(
                    f"{self.expected or 'the blob'} has {self._offset} bytes"
                    f" where {self._size} were expected"
                )
            if self.expected is not None and actual != self.expected:
                raise DigestMismatch(
                    f"the content has digest {actual} where {self.expected} was expected"
                )
            with disk_full_as_error(self._store.root):
                self._store._publish(self._fd, self.path, actual)
        except BaseException:
            self.abort()
            raise
        self._close()
        return actual

    def suspend(self) -> None:
        """Close, but keep what is here for a later ingest of the same ``ref`` to resume."""
        if self._fd < 0:
            return
        if not self._resumable:
            self.abort()
            return
        self._close()

    def abort(self) -> None:
        """Throw away what was written.  Does nothing after commit or suspend."""
        if self._fd >= 0:
            # While the file is still ours: the next ingest of the ref begins with a new one.
            self.path.unlink(missing_ok=True)
            self._close()

    def follow(self) -> ArrivingStream | None:
        """What is written, from its beginning, as it comes; None for one of unknown size."""
        if self._flow is None:
            return None
        return ArrivingStream(os.dup(self._fd), self._flow)

    def _close(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):  # what could not be read back is not wanted any more
                self._hashed()
            if self._flow is not None:
                self._flow.end()
            self._store._finished(self)
            os.close(self._fd)
            self._fd = -1

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
    """All methods may be called from any thread."""

    def __init__(self, root: Path, leases: Leases | None = None) -> None:
        self.root = root
        self.leases = leases if leases is not None else Leases()
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._arriving: dict[Digest, Ingest] = {}
        with disk_full_as_error(root):
            for directory in (self._blobs / "sha256", self._blobs / "sha512", self._ingest):
                directory.mkdir(parents=True, exist_ok=True)
        for path in self._ingest.iterdir():
            # What an earlier process left unfinished; a "ref-" can be resumed.
            if not path.name.startswith("ref-"):
                path.unlink(missing_ok=True)

    def path(self, digest: Digest) -> Path:
        algorithm, encoded = digests.split(digest)
        return self._blobs / algorithm / encoded

    def has(self, digest: Digest) -> bool:
        """Whether it is here; if so, an open lease holds it from now."""
        self.leases.touch(digest)
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Bytes; raises errors.NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise self._missing(digest) from None

    def read_bytes(self, digest: Digest) -> bytes:
        """A small blob, verified; raises errors.NotFound or DigestMismatch."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise self._missing(digest) from None
        if not digests.verify(data, digest):
            raise DigestMismatch(f"the blob {digest} is damaged on disk: remove its image, pull it")
        return data

    def open(self, digest: Digest) -> BinaryIO:
        try:
            return self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise self._missing(digest) from None

    def write_bytes(self, data: bytes) -> Digest:
        digest = digests.sha256(data)
        if self.has(digest):
            return digest
        with self.ingest(digest, len(data)) as ingest:
            ingest.write(data)
            return ingest.commit()

    def ingest(
        self, expected: Digest | None = None, size: int | None = None, ref: str | None = None
    ) -> Ingest:
        """Begin a blob.  With ``ref`` (any string) an ingest that was suspended under the same
        ref, by this process or an earlier one, is resumed: see its ``offset``.  A ref that is
        being written already begins a fresh blob.  Its writes raise errors.DiskFull."""
        name = os.urandom(12).hex()
        resumable = False
        if ref is not None:
            wanted = "ref-" + hashlib.sha256(ref.encode()).hexdigest()
            with self._lock:
                if wanted not in self._busy:
                    self._busy.add(wanted)
                    name, resumable = wanted, True
        try:
            ingest = Ingest(self, self._ingest / name, expected, size, resumable)
        except BaseException:
            with self._lock:
                self._busy.discard(name)
            raise
        if expected is not None:
            with self._lock:
                self._arriving[expected] = ingest
        return ingest

    def follow(self, digest: Digest) -> ArrivingStream | None:
        """A blob that is being received, as it comes; its digest is checked by whoever receives
        it, at the end.  None when it is not being received (or is here)."""
        with self._lock:
            ingest = self._arriving.get(digest)
            return ingest.follow() if ingest is not None else None

    def adopt(self, path: Path, digest: Digest) -> Digest:
        """Take a finished, verified file on the same file system as a blob, by a hard link."""
        temporary = self._ingest / os.urandom(12).hex()
        with disk_full_as_error(self.root):
            os.link(path, temporary)
            fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._publish(fd, temporary, digest)
            finally:
                os.close(fd)
        return digest

    def delete(self, digest: Digest) -> int:
        """Remove a blob if it is here; returns its size in bytes."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def sound(self, digest: Digest) -> bool:
        """Whether the blob is here and as its name says.  Reads all of it."""
        algorithm, encoded = digests.split(digest)
        hasher = hashlib.new(algorithm)
        try:
            with self.open(digest) as stream:
                while data := stream.read(_BLOCK):
                    hasher.update(data)
        except NotFound:
            return False
        return hasher.hexdigest() == encoded

    def drop_damaged(self, digest: Digest) -> bool:
        """Remove a blob that is not as its name says; whether it was so."""
        if self.sound(digest):
            return False
        self.delete(digest)
        return True

    def set_aside(self, digest: Digest) -> int:
        """Take a blob out of sight, quickly; :meth:`clean` frees its space.  Returns its size."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.rename(self._ingest / f"gone-{path.name}")
        except FileNotFoundError:
            return 0
        return size

    def clean(self) -> None:
        """Free the space of what was set aside."""
        for path in self._ingest.glob("gone-*"):
            path.unlink(missing_ok=True)

    def walk(self) -> Iterator[Digest]:
        for algorithm in ("sha256", "sha512"):
            with os.scandir(self._blobs / algorithm) as entries:
                for entry in entries:
                    yield f"{algorithm}:{entry.name}"

    def drop_partial(self) -> int:
        """Remove the resumable rests that nobody is writing; returns the bytes freed."""
        freed = 0
        for path in self._ingest.iterdir():
            with self._lock:
                if path.name.startswith("ref-") and path.name not in self._busy:
                    with suppress(FileNotFoundError):
                        freed += path.stat().st_size
                        path.unlink()
        return freed

    def _publish(self, fd: int, path: Path, digest: Digest) -> None:
        self.leases.touch(digest)
        os.fchmod(fd, 0o400)
        os.fsync(fd)
        target = self.path(digest)
        path.rename(target)
        fsync_directory(target.parent)

    def _finished(self, ingest: Ingest) -> None:
        with self._lock:
            self._busy.discard(ingest.path.name)
            if self._arriving.get(ingest.expected or "") is ingest:
                del self._arriving[ingest.expected or ""]

    def _missing(self, digest: Digest) -> NotFound:
        return NotFound(f"the blob {digest} is not in the content store")
