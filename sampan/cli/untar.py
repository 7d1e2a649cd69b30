"""Unpack a tar stream of unknown origin below a folder, and nowhere else.

Every member is opened by ``openat2(RESOLVE_BENEATH)`` from the folder's descriptor: a name that
climbs out, or that goes through a link which leads out, is refused by the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from sampan.cli.failure import Failure
from sampan.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
_BLOCK = 1 << 20


class Reader:
    """Chunks as the file that the tar reader wants."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def unpack(
    chunks: Iterable[bytes],
    folder: str,
    place: Callable[[tarfile.TarInfo], tarfile.TarInfo | None] = lambda item: item,
) -> None:
    """Write the members of an uncompressed tar below ``folder``, which exists.

    ``place`` renames a member, or leaves it out.  Owners and set-id bits are kept as root only.

    :raises Failure: a member would land outside of the folder.
    :raises OSError, tarfile.TarError: it cannot be read or written.
    """
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    directories: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(fileobj=Reader(chunks), mode="r|") as archive:  # type: ignore[call-overload]
            for given in archive:
                item = place(given)
                if item is None:
                    continue
                item.name = item.name.strip("/") or "."
                try:
                    _write(root, archive, given, item)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.ELOOP):
                        raise
                    raise Failure(
                        f"refusing to unpack {given.name!r}: it leads out of {folder}"
                    ) from None
                if item.isdir():
                    directories.append(item)
        # Last, because a file that is written changes its directory's time, and a mode may forbid
        # to write.
        for item in reversed(directories):
            fd = openat2(root, item.name, os.O_RDONLY | os.O_DIRECTORY, 0, _RESOLVE)
            try:
                _finish(fd, item)
            finally:
                os.close(fd)
    finally:
        os.close(root)


def _write(
    root: int, archive: tarfile.TarFile, given: tarfile.TarInfo, item: tarfile.TarInfo
) -> None:
    folder, name = os.path.split(item.name)
    parent = _directory(root, folder)
    try:
        if name in ("", ".", ".."):
            if name == ".." or not item.isdir():
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return
        if item.isdir():
            _make_directory(parent, name)
            return
        _remove(parent, name)
        if item.isreg():
            _write_file(parent, name, archive, given, item)
        elif item.issym():
            os.symlink(item.linkname, name, dir_fd=parent)
            _own(parent, name, item)
        elif item.islnk():
            _link(root, parent, name, item)
        elif item.isfifo() or item.ischr() or item.isblk():
            kind = {tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.CHRTYPE: stat.S_IFCHR}
            device = os.makedev(item.devmajor, item.devminor)
            os.mknod(name, kind.get(item.type, stat.S_IFBLK) | item.mode, device, dir_fd=parent)
            _own(parent, name, item)
    finally:
        os.close(parent)


def _directory(root: int, path: str) -> int:
    """The directory, made with its parents where missing."""
    try:
        return openat2(root, path or ".", os.O_PATH | os.O_DIRECTORY, 0, _RESOLVE)
    except FileNotFoundError:
        above, name = os.path.split(path)
        parent = _directory(root, above)
        try:
            _make_directory(parent, name)
        finally:
            os.close(parent)
        return openat2(root, path, os.O_PATH | os.O_DIRECTORY, 0, _RESOLVE)


def _make_directory(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
            raise


def _remove(parent: int, name: str) -> None:
    """A file takes the place of a file or link, but never of a directory."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _write_file(
    parent: int,
    name: str,
    archive: tarfile.TarFile,
    given: tarfile.TarInfo,
    item: tarfile.TarInfo,
) -> None:
    source = archive.extractfile(given)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        for block in _blocks(source):
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]
        _finish(fd, item)
    finally:
        os.close(fd)


def _blocks(source: object) -> Iterator[bytes]:
    read = getattr(source, "read", None)
    while read is not None and (block := read(_BLOCK)):
        yield block


def _link(root: int, parent: int, name: str, item: tarfile.TarInfo) -> None:
    target = item.linkname.strip("/")
    folder, base = os.path.split(target)
    source = openat2(root, folder or ".", os.O_PATH | os.O_DIRECTORY, 0, _RESOLVE)
    try:
        os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(source)


def _own(parent: int, name: str, item: tarfile.TarInfo) -> None:
    if os.geteuid() == 0:
        os.chown(name, item.uid, item.gid, dir_fd=parent, follow_symlinks=False)
    os.utime(name, (item.mtime, item.mtime), dir_fd=parent, follow_symlinks=False)


def _finish(fd: int, item: tarfile.TarInfo) -> None:
    mode = item.mode & 0o7777
    if os.geteuid() == 0:
        os.fchown(fd, item.uid, item.gid)
    else:
        mode &= 0o1777
    os.fchmod(fd, mode)
    os.utime(fd, (item.mtime, item.mtime))
