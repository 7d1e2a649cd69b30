"""Layer tars made from an overlay's upper directory, and the vocabulary of whiteouts.

The tar is a function of the tree alone: entries sorted by name, numeric owners, no names of users
or hosts, PAX records only where a value does not fit the plain header.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from sampan.image import tar
from sampan.image.tar import Entry
from sampan.image.tarwrite import END, Gathered, header, padding

WHITEOUT_PREFIX = b".wh."
WHITEOUT_META_PREFIX = b".wh..wh."
OPAQUE_MARKER = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"

Kind = Literal["added", "modified", "deleted"]

_CHUNK = 1 << 20
_SECOND = 1_000_000_000
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCKDEV,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFIFO: tar.FIFO,
}


@dataclass(frozen=True, slots=True)
class Change:
    """One line of ``docker diff``; ``path`` is absolute inside the root file system."""

    path: str
    kind: Kind


def write_diff(
    upper: Path,
    out: BinaryIO,
    *,
    clamp_mtime: int | None = None,
    exclude: Collection[str] = (),
) -> int:
    """Write the layer tar of an overlay's upper directory to ``out``.

    ``clamp_mtime`` (seconds since the epoch; SOURCE_DATE_EPOCH) is an upper limit of the times.
    ``exclude`` are absolute paths that are left out with all below them (the mount points that
    running made).  Returns the sum of the sizes of the regular files in bytes.
    """
    return _write(upper, out, clamp_mtime, exclude, whiteouts=True)


def write_tree(root: int | Path, out: BinaryIO) -> int:
    """Write a whole tree (a path, or a directory descriptor) to ``out``: ``docker export``."""
    return _write(root, out, None, (), whiteouts=False)


def clamp(layer: BinaryIO, out: BinaryIO, clamp_mtime: int) -> int:
    """Write a layer tar that this module could have written, with times up to ``clamp_mtime``
    (seconds since the epoch).  Returns the sum of the sizes of the regular files in bytes."""
    cursor = tar.StreamCursor(layer)
    gathered = Gathered(out)
    size = 0
    for entry in tar.entries(cursor):
        entry.mtime = min(entry.mtime, clamp_mtime * _SECOND)
        gathered.put(header(entry))
        if entry.type == tar.REGULAR:
            for piece in cursor.chunks(entry.size):
                gathered.put(piece)
            gathered.put(padding(entry.size))
            size += entry.size
    gathered.put(END)
    gathered.flush()
    return size


def changes(upper: Path, lower: int | None, exclude: Collection[str] = ()) -> Iterator[Change]:
    """What the upper directory changes against ``lower`` (a directory descriptor of the tree
    below, not O_PATH; or None for nothing), sorted by path: the answer of ``docker diff``.
    ``exclude`` are absolute paths to leave out, with all below them."""
    fd = os.open(upper, _DIRECTORY)
    below = os.dup(lower) if lower is not None else None
    try:
        yield from _changes(fd, below, "", exclude, opaque=False)
    finally:
        os.close(fd)
        if below is not None:
            os.close(below)


def _write(
    root: int | Path,
    out: BinaryIO,
    clamp_mtime: int | None,
    exclude: Collection[str],
    *,
    whiteouts: bool,
) -> int:
    fd = os.dup(root) if isinstance(root, int) else os.open(root, _DIRECTORY)
    try:
        writer = _Writer(out, clamp_mtime, exclude, whiteouts)
        writer.directory(fd, b"")
        out.write(END)
        return writer.size
    finally:
        os.close(fd)


class _Writer:
    def __init__(
        self, out: BinaryIO, clamp_mtime: int | None, exclude: Collection[str], whiteouts: bool
    ) -> None:
        self.size = 0
        self._exclude = {os.fsencode(path.strip("/")) for path in exclude}
        self._out = Gathered(out)
        self._clamp = clamp_mtime
        self._whiteouts = whiteouts
        self._links: dict[tuple[int, int], bytes] = {}

    def directory(self, fd: int, path: bytes) -> None:
        """Everything inside a directory, sorted by name."""
        if self._whiteouts and path and is_opaque(fd):
            self._marker(path + b"/" + OPAQUE_MARKER)
        names = sorted(os.fsencode(name) for name in os.listdir(fd))
        for name in names:
            place = path + b"/" + name if path else name
            if place in self._exclude:
                continue
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                self._node(fd, name, place, info)
            except FileNotFoundError:
                continue  # Removed while we read: then it is not part of the layer.
        self._out.flush()

    def _node(self, parent: int, name: bytes, path: bytes, info: os.stat_result) -> None:
        kind = KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            return  # A socket: it means nothing without its process, and tar has no type for it.
        if self._whiteouts and is_whiteout(info):
            folder, slash, base = path.rpartition(b"/")
            self._marker(folder + slash + WHITEOUT_PREFIX + base)
            return
        if self._whiteouts and name.startswith(WHITEOUT_PREFIX):
            return  # The name cannot be expressed: in a layer it would delete another file.
        mtime = info.st_mtime_ns // _SECOND
        if self._clamp is not None:
            mtime = min(mtime, self._clamp)
        entry = Entry(
            path, kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, 0, mtime * _SECOND
        )
        if kind == tar.DIRECTORY:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                entry.xattrs = xattrs_of(fd)
                self._out.put(header(entry))
                self.directory(fd, path)
            finally:
                os.close(fd)
            return
        if info.st_nlink > 1:
            first = self._links.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                entry.type, entry.linkname = tar.HARDLINK, first
                self._out.put(header(entry))
                return
        if kind == tar.REGULAR:
            self._file(parent, name, entry)
            return
        place = b"/proc/self/fd/%d/" % parent + name
        entry.xattrs = xattrs_of(place)
        if kind == tar.SYMLINK:
            entry.linkname = os.readlink(name, dir_fd=parent)
        else:
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
        self._out.put(header(entry))

    def _file(self, parent: int, name: bytes, entry: Entry) -> None:
        """A file's header and exactly as many bytes as it says, even if the file changes."""
        fd = os.open(name, _FILE, dir_fd=parent)
        try:
            entry.size = os.fstat(fd).st_size
            entry.xattrs = xattrs_of(fd)
            self._out.put(header(entry))
            left = entry.size
            while left:
                data = os.read(fd, min(left, _CHUNK)) or bytes(min(left, _CHUNK))
                left -= len(data)
                self._out.put(data)
            self._out.put(padding(entry.size))
        finally:
            os.close(fd)
        self.size += entry.size

    def _marker(self, path: bytes) -> None:
        self._out.put(header(Entry(path, tar.REGULAR, 0, 0, 0, 0, 0)))


def is_whiteout(info: os.stat_result) -> bool:
    """Whether it is overlayfs' mark of a removed file: a character device 0/0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(place: int | str | Path) -> bool:
    """Whether it is a directory that overlayfs does not merge with what is below."""
    try:
        return os.getxattr(place, OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def xattrs_of(place: int | bytes) -> dict[bytes, bytes] | None:
    """The extended attributes that belong to the file itself."""
    try:
        if isinstance(place, int):
            names = os.listxattr(place)
        else:
            names = os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return None
        raise
    found: dict[bytes, bytes] = {}
    for name in names:
        if name.startswith(_OVERLAY_XATTRS) or name == "security.selinux":
            continue
        if isinstance(place, int):
            found[os.fsencode(name)] = os.getxattr(place, name)
        else:
            found[os.fsencode(name)] = os.getxattr(place, name, follow_symlinks=False)
    return found or None


def _changes(
    upper: int, lower: int | None, path: str, exclude: Collection[str], *, opaque: bool
) -> Iterator[Change]:
    """Changes inside one directory; the directory itself is the caller's to report."""
    opaque = opaque or is_opaque(upper)
    names = set(os.listdir(upper))
    hidden: set[str] = set()
    if opaque and lower is not None:
        hidden = set(os.listdir(lower)) - names
    for name in sorted(names | hidden):
        place = f"{path}/{name}"
        if place in exclude:
            continue
        shown = os.fsencode(place).decode(errors="replace")
        if name in hidden:
            yield Change(shown, "deleted")
            continue
        info = os.stat(name, dir_fd=upper, follow_symlinks=False)
        below = status_in(lower, name)
        if is_whiteout(info):
            if below is not None:
                yield Change(shown, "deleted")
            continue
        if not stat.S_ISDIR(info.st_mode):
            yield Change(shown, "added" if below is None else "modified")
            continue
        inside = os.open(name, _DIRECTORY, dir_fd=upper)
        beneath = None
        try:
            if below is not None and stat.S_ISDIR(below.st_mode):
                assert lower is not None
                beneath = os.open(name, _DIRECTORY, dir_fd=lower)
            yield Change(shown, "added" if below is None else "modified")
            yield from _changes(inside, beneath, place, exclude, opaque=opaque)
        finally:
            os.close(inside)
            if beneath is not None:
                os.close(beneath)


def status_in(fd: int | None, name: str | bytes) -> os.stat_result | None:
    """What ``name`` is in the directory ``fd``; None when it, or the directory, is not there."""
    if fd is None:
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
