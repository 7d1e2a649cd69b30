"""A tree of files as a tar stream, read through directory descriptors only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from sampan.image import tar
from sampan.image.tarwrite import END, header, padding
from sampan.linux.openat2 import RESOLVE_NO_XDEV, openat2
from sampan.runtime.userns import Mapping

Enter = Callable[[bytes], bool]
"""Whether to go into the mount at an absolute path; what is not entered is shown empty."""

CHUNK = 1 << 20
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_XATTRS = ("security.capability", "user.")
_KINDS = {
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCKDEV,
    stat.S_IFIFO: tar.FIFO,
}


def pack(
    parent: int,
    name: str,
    shown: str,
    *,
    path: str = "/",
    enter: Enter | None = None,
    mapping: Mapping | None = None,
    latest: int | None = None,
) -> Iterator[bytes]:
    """The entry ``name`` of the directory ``parent``, and all below it, as a tar.

    :param shown: the entry's name in the archive; ``/`` for names that begin with a slash, empty
        for names that begin with nothing.
    :param path: the entry's absolute path, for ``enter``, which is asked at each mount (None:
        all are entered).
    :param mapping: the user namespace whose numbers the owners are to be told in.
    :param latest: an upper limit of the times, in nanoseconds since the epoch.

    Entries are in the order of their names; sockets are left out.  Raises OSError.
    """
    writer = _Writer(enter, mapping, latest)
    yield from writer.entry(parent, name, os.fsencode(shown), os.fsencode(path).rstrip(b"/"))
    yield from writer.flush(END)


class _Writer:
    def __init__(self, enter: Enter | None, mapping: Mapping | None, latest: int | None) -> None:
        self._latest = latest
        self._enter = enter
        self._mapping = mapping
        self._links: dict[tuple[int, int], bytes] = {}
        self._buffer = bytearray()

    def flush(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        if self._buffer:
            yield bytes(self._buffer)
            self._buffer.clear()

    def _put(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        if len(self._buffer) >= CHUNK:
            yield bytes(self._buffer)
            self._buffer.clear()

    def entry(self, parent: int, name: str, shown: bytes, path: bytes) -> Iterator[bytes]:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(info.st_mode)
        uid, gid = info.st_uid, info.st_gid
        if self._mapping:
            uid, gid = self._mapping.inside(uid, gid)
        entry = tar.Entry(
            shown,
            mode=stat.S_IMODE(info.st_mode),
            uid=uid,
            gid=gid,
            mtime=info.st_mtime_ns if self._latest is None else min(info.st_mtime_ns, self._latest),
        )
        if kind == stat.S_IFDIR:
            yield from self._directory(parent, name, entry, path)
        elif kind != stat.S_IFSOCK:
            yield from self._other(parent, name, entry, info, path)

    def _open(self, parent: int, name: str, flags: int, path: bytes) -> int | None:
        """A descriptor of the entry, or None when it is a mount that is not entered."""
        if self._enter is None:
            return os.open(name, flags, dir_fd=parent)
        try:
            return openat2(parent, name, flags, resolve=RESOLVE_NO_XDEV)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        return os.open(name, flags, dir_fd=parent) if self._enter(path or b"/") else None

    def _open_file(self, parent: int, name: str, path: bytes) -> int | None:
        """Like :meth:`_open`, for reading a regular file.

        A running container may put a device in its place at any time, and to open one has effects
        of its own: so the entry is looked at before it is opened.  Raises FileNotFoundError.
        """
        place = self._open(parent, name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, path)
        if place is None:
            return None
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise FileNotFoundError(errno.ENOENT, "the file was replaced", name)
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)

    def _directory(self, parent: int, name: str, entry: tar.Entry, path: bytes) -> Iterator[bytes]:
        directory = self._open(parent, name, _OPEN_DIRECTORY, path)
        entry.type = tar.DIRECTORY
        if directory is None:
            yield from self._put(header(entry))
            return
        try:
            entry.xattrs = _xattrs(directory)
            if entry.name:
                yield from self._put(header(entry))
            prefix = entry.name + b"/" if entry.name.rstrip(b"/") else entry.name
            for child in sorted(os.listdir(directory)):
                shown = os.fsencode(child)
                try:
                    yield from self.entry(directory, child, prefix + shown, path + b"/" + shown)
                except FileNotFoundError:
                    continue  # removed meanwhile by the running container
        finally:
            os.close(directory)

    def _other(
        self, parent: int, name: str, entry: tar.Entry, info: os.stat_result, path: bytes
    ) -> Iterator[bytes]:
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1:
            if key in self._links:
                entry.type, entry.linkname = tar.HARDLINK, self._links[key]
                yield from self._put(header(entry))
                return
            self._links[key] = entry.name
        if stat.S_ISREG(info.st_mode):
            yield from self._file(parent, name, entry, path)
            return
        entry.type = _KINDS[stat.S_IFMT(info.st_mode)]
        if entry.type == tar.SYMLINK:
            entry.linkname = os.fsencode(os.readlink(name, dir_fd=parent))
        entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        yield from self._put(header(entry))

    def _file(self, parent: int, name: str, entry: tar.Entry, path: bytes) -> Iterator[bytes]:
        fd = self._open_file(parent, name, path)
        if fd is None:
            yield from self._put(header(entry))
            return
        try:
            entry.size = os.fstat(fd).st_size
            entry.xattrs = _xattrs(fd)
            yield from self._put(header(entry))
            left = entry.size
            while left:
                data = os.read(fd, min(CHUNK, left))
                if not data:
                    break
                left -= len(data)
                yield from self._put(data)
            # A file that shrinks while it is read: the archive keeps the size that it promised.
            while left:
                piece = bytes(min(CHUNK, left))
                left -= len(piece)
                yield from self._put(piece)
            yield from self._put(padding(entry.size))
        finally:
            os.close(fd)


def _xattrs(fd: int) -> dict[bytes, bytes] | None:
    try:
        names = [name for name in os.listxattr(fd) if name.startswith(_XATTRS)]
        return {os.fsencode(name): os.getxattr(fd, name) for name in names} or None
    except OSError:
        return None  # the file system has none
