"""Extracting a tar into a tree, for ADD of an archive."""

from __future__ import annotations

import bz2
import errno
import io
import lzma
import os
import posixpath
import stat
import zlib
from typing import BinaryIO, cast

import zstandard
from isal import igzip

from sampan.build.ops.copy import ensure_directory, explained
from sampan.build.ops.tree import Folder, write_all
from sampan.errors import InvalidParameter
from sampan.image import tar

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


# What readers of damaged archives raise.
MALFORMED = (
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    igzip.BadGzipFile,
)


def compression(head: bytes) -> str:
    """``gzip``, ``bzip2``, ``xz``, ``zstd`` or empty, by the first bytes."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return ""


def decompressed(stream: BinaryIO, head: bytes) -> BinaryIO:
    """``head`` and the rest of ``stream``, decompressed as ``head`` says."""
    whole = cast(BinaryIO, io.BufferedReader(_Joined(head, stream), 1 << 18))
    kind = compression(head)
    if kind == "gzip":
        return cast(BinaryIO, igzip.open(whole, "rb"))  # type: ignore[no-untyped-call]
    if kind == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(whole))
    if kind == "xz":
        return cast(BinaryIO, lzma.LZMAFile(whole))
    if kind == "zstd":
        return cast(
            BinaryIO, zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
        )
    return whole


def is_archive(stream: BinaryIO) -> bool:
    """Whether the stream is a tar, compressed or not; its position is left at the start."""
    try:
        head = stream.read(512)
        if not compression(head):
            return _is_header(head)
        return _is_header(decompressed(stream, head).read(512))
    except (OSError, *MALFORMED):
        return False
    finally:
        stream.seek(0)


def _is_header(block: bytes) -> bool:
    """Whether the block is a tar header: its checksum is right."""
    stated = block[148:156].strip(b" \0")
    if len(block) < 512 or not stated or not set(stated) <= set(b"01234567"):
        return False
    return sum(block[:148]) + 8 * 32 + sum(block[156:512]) == int(stated, 8)


class _Joined(io.RawIOBase):
    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._head:
            count = min(len(buffer), len(self._head))
            buffer[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        data = self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def extract(stream: BinaryIO, tree: Folder, base: str = "/") -> int:
    """Extract the uncompressed tar ``stream`` below ``base`` of ``tree``.

    Every path is resolved inside the tree; a member that names a path above it is refused.
    Returns the bytes of contents.  Raises InvalidParameter for a malformed or hostile archive, DiskFull.
    """
    cursor = tar.StreamCursor(stream)
    extraction = _Extraction(tree, base)
    try:
        for entry in tar.entries(cursor):
            extraction.member(entry, cursor)
        extraction.finish()
    except MALFORMED as error:
        raise InvalidParameter(f"malformed archive: {error}") from None
    except OSError as error:
        raise explained(error, base) from error
    finally:
        extraction.close()
    return extraction.total


class _Extraction:
    def __init__(self, tree: Folder, base: str) -> None:
        self.tree = tree
        self.base = base
        self.total = 0
        self._parent: tuple[str, int] | None = None
        self._times: dict[str, int] = {}

    def close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def finish(self) -> None:
        """Times of directories, once nothing more is written into them."""
        for path in sorted(self._times, reverse=True):
            fd = self.tree.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                when = self._times[path]
                os.utime(f"/proc/self/fd/{fd}", ns=(when, when))
            finally:
                os.close(fd)

    def _path(self, name: bytes) -> str:
        text = name.decode(errors="surrogateescape")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidParameter(
                f"the archive's member {text!r} leads out of the archive: it is refused"
            )
        return posixpath.join(self.base, *parts)

    def _holder(self, path: str) -> tuple[int, str]:
        parent, base = posixpath.split(path)
        if self._parent is None or self._parent[0] != parent:
            self.close()
            self._parent = (parent, ensure_directory(self.tree, parent, None))
        return self._parent[1], base

    def member(self, entry: tar.Entry, cursor: tar.StreamCursor) -> None:
        path = self._path(entry.name)
        when = entry.mtime
        if path.rstrip("/") == self.base.rstrip("/"):
            return
        holder, base = self._holder(path)
        mode = stat.S_IMODE(entry.mode)
        if entry.type == tar.DIRECTORY:
            self._directory(entry, holder, base, path, when, mode)
            return
        self._clear(holder, base)
        if entry.type == tar.REGULAR:
            self._file(entry, cursor, holder, base, when, mode)
            return
        if entry.type == tar.HARDLINK:
            self._hardlink(entry, holder, base)
            return
        if entry.type == tar.SYMLINK:
            os.symlink(entry.linkname, base, dir_fd=holder)
        elif entry.type == tar.FIFO:
            os.mkfifo(base, 0o600, dir_fd=holder)
        else:
            kind = stat.S_IFCHR if entry.type == tar.CHAR else stat.S_IFBLK
            device = os.makedev(entry.major, entry.minor)
            os.mknod(base, kind | 0o600, device, dir_fd=holder)
        uid, gid = entry.uid, entry.gid
        os.chown(base, uid, gid, dir_fd=holder, follow_symlinks=False)
        if entry.type != tar.SYMLINK:
            os.chmod(f"/proc/self/fd/{holder}/{base}", mode)
        os.utime(base, ns=(when, when), dir_fd=holder, follow_symlinks=False)

    def _directory(
        self, entry: tar.Entry, holder: int, base: str, path: str, when: int, mode: int
    ) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=holder)
        except FileExistsError:
            info = os.stat(base, dir_fd=holder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                # A directory over a link or file: replaced, as tar does.
                os.unlink(base, dir_fd=holder)
                os.mkdir(base, 0o700, dir_fd=holder)
        uid, gid = entry.uid, entry.gid
        os.chown(base, uid, gid, dir_fd=holder, follow_symlinks=False)
        os.chmod(f"/proc/self/fd/{holder}/{base}", mode)
        self._times[path] = when

    def _clear(self, holder: int, base: str) -> None:
        try:
            os.unlink(base, dir_fd=holder)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            raise InvalidParameter(
                f"the archive would replace the directory {base!r} by a file"
            ) from None

    def _file(
        self,
        entry: tar.Entry,
        cursor: tar.StreamCursor,
        holder: int,
        base: str,
        when: int,
        mode: int,
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(base, flags, 0o600, dir_fd=holder)
        try:
            if entry.sparse is None:
                for chunk in cursor.chunks(entry.stored):
                    write_all(fd, chunk)
            else:
                for offset, length in entry.sparse:
                    os.lseek(fd, offset, os.SEEK_SET)
                    for chunk in cursor.chunks(length):
                        write_all(fd, chunk)
                os.ftruncate(fd, entry.size)
            uid, gid = entry.uid, entry.gid
            if (uid, gid) != (0, 0):
                os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
            for key, value in (entry.xattrs or {}).items():
                try:
                    os.setxattr(fd, key, value)
                except OSError as error:
                    if error.errno not in (errno.ENOTSUP, errno.EPERM):
                        raise
            os.utime(fd, ns=(when, when))
            self.total += entry.size
        finally:
            os.close(fd)

    def _hardlink(self, entry: tar.Entry, holder: int, base: str) -> None:
        target = self._path(entry.linkname)
        try:
            fd = self.tree.open(target, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            raise InvalidParameter(
                f"the archive's link {base!r} points to {target!r}, which is not in it"
            ) from None
        try:
            os.link(f"/proc/self/fd/{fd}", base, dst_dir_fd=holder, follow_symlinks=True)
        finally:
            os.close(fd)
