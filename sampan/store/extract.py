"""Extraction of a layer's tar into a directory, whatever the tar contains.

Every path is resolved by openat2 with the target directory as its root, and the last component is
never followed, so that ``..``, absolute names and symbolic links lead nowhere else.  A name that
would lead out by ``..`` is refused.

Whiteouts are either *kept* in overlayfs' form (for a directory that becomes a layer of an
overlay), or *applied* to what is there already (for a directory that is the whole tree).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from sampan.errors import InvalidParameter
from sampan.image import tar
from sampan.image.layer import (
    OPAQUE_MARKER,
    OVERLAY_OPAQUE,
    WHITEOUT_META_PREFIX,
    WHITEOUT_PREFIX,
    is_opaque,
    is_whiteout,
)
from sampan.image.tar import Entry, InvalidTar, StreamCursor
from sampan.linux.openat2 import (
    O_PATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from sampan.linux.trees import remove_tree
from sampan.store.copytree import copy_file
from sampan.store.snapshots import Usage

_CACHED_DIRECTORIES = 128
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOSTILE = (
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.EINVAL,
    errno.EXDEV,
    errno.EMLINK,
)
_HIDDEN_XATTRS = (b"trusted.overlay.", b"user.overlay.")


def extract(
    stream: BinaryIO, target: Path, *, keep_whiteouts: bool, lower: Sequence[Path] = ()
) -> Usage:
    """Unpack the uncompressed tar ``stream`` into ``target``, to its end.

    ``lower`` are the directories of the layers below, uppermost first: directories that the tar
    only implies take their owner and mode from there, and hard links may point at their files.
    Raises errors.InvalidParameter for a malformed or hostile tar; then ``target`` is in an
    undefined state.
    """
    cursor = StreamCursor(stream)
    with _Extraction(cursor, target, keep_whiteouts, lower) as extraction:
        try:
            for entry in tar.entries(cursor):
                try:
                    extraction.add(entry)
                except OSError as error:
                    if error.errno in _HOSTILE:
                        raise InvalidTar(
                            f"{os.fsdecode(entry.name)!r} cannot be unpacked: {error.strerror}"
                        ) from error
                    raise
            cursor.drain()
        except InvalidTar as error:
            raise InvalidParameter(f"invalid layer: {error}") from error
        except RecursionError:
            raise InvalidParameter("invalid layer: its directories are nested too deep") from None
        extraction.finish()
        return Usage(extraction.size, extraction.inodes)


def components(name: bytes) -> list[bytes]:
    """The name's components below the root, ``.`` and ``..`` resolved by text; raises InvalidTar
    for a name that leads out."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidTar(f"the name {os.fsdecode(name)!r} leads out of the layer")
            parts.pop()
        elif part and part != b".":
            parts.append(part)
    return parts


def wanted_xattrs(entry: Entry) -> dict[bytes, bytes]:
    """The entry's attributes without those by which overlayfs steers itself."""
    if not entry.xattrs:
        return {}
    return {k: v for k, v in entry.xattrs.items() if not k.startswith(_HIDDEN_XATTRS)}


class _Extraction:
    def __init__(
        self, cursor: StreamCursor, target: Path, keep_whiteouts: bool, lower: Sequence[Path]
    ) -> None:
        self.size = 0
        self.inodes = 0
        self._cursor = cursor
        self._keep = keep_whiteouts
        self._root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lower = list(lower)
        self._cache: OrderedDict[bytes, int] = OrderedDict()
        self._times: dict[bytes, int] = {}
        self._whiteouts: list[bytes] = []
        # What this layer put there, for whiteouts that come after it.
        self._ours: set[bytes] = set()
        self._inodes: set[int] = set()

    def __enter__(self) -> _Extraction:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._root)

    def add(self, entry: Entry) -> None:
        parts = components(entry.name)
        if not parts:
            if entry.type == tar.DIRECTORY:
                self._attributes(self._root, entry)
                self._times[b"."] = entry.mtime
            return
        name = parts[-1]
        parent_path = b"/".join(parts[:-1])
        if name.startswith(WHITEOUT_PREFIX):
            self._whiteout(parent_path, name)
            return
        parent = self._directory(parent_path)
        path = b"/".join(parts)
        if not self._keep:
            self._own(path)
        if entry.type == tar.DIRECTORY:
            self._make_directory(parent, name, path, entry)
        else:
            try:
                self._make(parent, name, entry)
            except FileExistsError:
                self._clear(parent, name)
                self._make(parent, name, entry)
        if entry.type != tar.HARDLINK:
            self.inodes += 1
            if not self._keep:
                self._inodes.add(os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino)

    def _own(self, path: bytes) -> None:
        """This layer has put something there, and so means all directories above it."""
        while path and path not in self._ours:
            self._ours.add(path)
            path = path.rpartition(b"/")[0]

    def finish(self) -> None:
        """Remove whiteouts that hide nothing, and set the directories' times, which adding to
        them has changed."""
        opaque: dict[bytes, bool] = {}
        for path in self._whiteouts:
            self._drop_idle_whiteout(path, opaque)
        for path, mtime in self._times.items():
            try:
                fd = open_in_root(self._root, path, _DIRECTORY)
            except OSError:
                continue
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    def _drop_idle_whiteout(self, path: bytes, opaque: dict[bytes, bool]) -> None:
        """Below an opaque directory nothing is merged, and overlayfs would list a whiteout."""
        above, _, name = path.rpartition(b"/")
        parts = above.split(b"/") if above else []
        parent = os.dup(self._root)
        try:
            hidden = False
            for depth in range(len(parts) + 1):
                prefix = b"/".join(parts[:depth])
                if depth:
                    following = os.open(parts[depth - 1], _DIRECTORY, dir_fd=parent)
                    os.close(parent)
                    parent = following
                if prefix not in opaque:
                    opaque[prefix] = is_opaque(parent)
                hidden = hidden or opaque[prefix]
            if hidden and is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                os.unlink(name, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return  # Something took its place, or that of a directory above it.
        finally:
            os.close(parent)

    # Directories

    def _directory(self, path: bytes) -> int:
        """A descriptor of a parent directory, made if the tar did not mention it."""
        if not path:
            return self._root
        fd = self._cache.get(path)
        if fd is not None:
            self._cache.move_to_end(path)
            return fd
        if not self._keep:
            self._clear_foreign(path)
        try:
            fd = open_in_root(self._root, path, O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            fd = self._imply(path)
        self._cache[path] = fd
        if len(self._cache) > _CACHED_DIRECTORIES:
            os.close(self._cache.popitem(last=False)[1])
        return fd

    def _clear_foreign(self, path: bytes) -> None:
        """A link or file of a layer below gives way to the directory that this layer means."""
        if path in self._ours:
            return
        above, _, name = path.rpartition(b"/")
        parent = self._directory(above)
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(info.st_mode):
            self._clear(parent, name)

    def _imply(self, path: bytes) -> int:
        above, _, name = path.rpartition(b"/")
        parent = self._directory(above)
        entry = self._below(path)
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent)
            self.inodes += 1
        else:
            if stat.S_ISLNK(info.st_mode):
                raise InvalidTar(f"{os.fsdecode(path)!r} is a link that leads nowhere")
            if not is_whiteout(info):
                raise InvalidTar(f"{os.fsdecode(path)!r} is no directory and yet has files in it")
            # A whiteout of this layer with something new below it.
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            os.setxattr(f"/proc/self/fd/{parent}/".encode() + name, OVERLAY_OPAQUE, b"y")
            entry = None
        fd = open_in_root(parent, name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        if entry is not None:
            os.chown(f"/proc/self/fd/{fd}", entry.st_uid, entry.st_gid)
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(entry.st_mode))
            self._times.setdefault(path, entry.st_mtime_ns)
        return fd

    def _below(self, path: bytes) -> os.stat_result | None:
        """What the layers below have as this directory."""
        fd = self._open_below(path)
        if fd < 0:
            return None
        try:
            info = os.fstat(fd)
            return info if stat.S_ISDIR(info.st_mode) else None
        finally:
            os.close(fd)

    def _open_below(self, path: bytes) -> int:
        """An O_PATH descriptor of what the layers below show at this path; -1 if nothing.  Looked
        up as overlayfs does, component by component; no symbolic link is followed."""
        for layer in self._lower:
            fd = os.open(layer, O_PATH | os.O_DIRECTORY)
            for part in path.split(b"/"):
                parent = fd
                try:
                    fd = os.open(part, O_PATH | os.O_NOFOLLOW, dir_fd=parent)
                except FileNotFoundError:
                    if is_opaque(f"/proc/self/fd/{parent}"):
                        return -1
                    fd = -1
                    break
                except NotADirectoryError:
                    return -1
                finally:
                    os.close(parent)
                if is_whiteout(os.fstat(fd)):
                    os.close(fd)
                    return -1
            if fd >= 0:
                return fd
        return -1

    def _make_directory(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        opaque = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                opaque = self._keep and stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
                self._clear(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._attributes(fd, entry)
            if opaque:
                os.setxattr(fd, OVERLAY_OPAQUE, b"y")
        finally:
            os.close(fd)
        self._times[path] = entry.mtime

    # Everything else

    def _make(self, parent: int, name: bytes, entry: Entry) -> None:
        kind = entry.type
        if kind == tar.REGULAR:
            self._make_file(parent, name, entry)
            return
        if kind == tar.HARDLINK:
            self._make_link(parent, name, entry)
            return
        if kind == tar.SYMLINK:
            if not entry.linkname:
                raise InvalidTar(f"the symbolic link {os.fsdecode(entry.name)!r} has no target")
            os.symlink(entry.linkname, name, dir_fd=parent)
        else:
            mode, device = stat.S_IFIFO, 0
            if kind != tar.FIFO:
                mode = stat.S_IFCHR if kind == tar.CHAR else stat.S_IFBLK
                device = os.makedev(entry.major, entry.minor)
            os.mknod(name, mode | 0o600, device, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        place = f"/proc/self/fd/{parent}/".encode() + name
        if kind != tar.SYMLINK:
            os.chmod(place, entry.mode)
        for key, value in wanted_xattrs(entry).items():
            _set_xattr(place, key, value)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _make_file(self, parent: int, name: bytes, entry: Entry) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            if entry.sparse is None:
                for chunk in self._cursor.chunks(entry.size):
                    _write(fd, chunk)
            else:
                os.ftruncate(fd, entry.size)
                for offset, length in entry.sparse:
                    os.lseek(fd, offset, os.SEEK_SET)
                    for chunk in self._cursor.chunks(length):
                        _write(fd, chunk)
            self._attributes(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)
        self.size += entry.stored

    def _make_link(self, parent: int, name: bytes, entry: Entry) -> None:
        parts = components(entry.linkname)
        if not parts:
            raise InvalidTar(f"the hard link {os.fsdecode(entry.name)!r} has no target")
        above = b"/".join(parts[:-1])
        try:
            source = open_in_root(self._root, above, O_PATH | os.O_DIRECTORY)
            try:
                if self._link(source, parts[-1], parent, name):
                    return
            finally:
                os.close(source)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass
        if not self._copy_from_below(parent, name, b"/".join(parts)):
            raise InvalidTar(
                f"the hard link {os.fsdecode(entry.name)!r} points at"
                f" {os.fsdecode(entry.linkname)!r}, which is not a file of the layer"
            )

    def _link(self, source: int, target: bytes, parent: int, name: bytes) -> bool:
        """Make the link; False when the target is not this layer's.  A link to itself is there."""
        info = os.stat(target, dir_fd=source, follow_symlinks=False)
        if (not self._keep and info.st_ino not in self._inodes) or is_whiteout(info):
            return False
        if stat.S_ISDIR(info.st_mode):
            raise InvalidTar(f"the hard link {os.fsdecode(name)!r} points at a directory")
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            if os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino != info.st_ino:
                raise
        return True

    def _copy_from_below(self, parent: int, name: bytes, path: bytes) -> bool:
        """A link to a file of a lower layer is a copy of it, as a copy-up would make."""
        fd = self._open_below(path) if self._keep else self._open_inside(path)
        if fd < 0:
            return False
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return False
            if _is_same(info, parent, name):
                return True
            reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                writing = os.open(name, _NEW, 0o600, dir_fd=parent)
                try:
                    copy_file(reading, writing, info)
                finally:
                    os.close(writing)
            finally:
                os.close(reading)
            self.inodes += 1
            return True
        finally:
            os.close(fd)

    def _open_inside(self, path: bytes) -> int:
        """The same when the layers below are laid out in the target itself."""
        try:
            resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
            return openat2(self._root, path, O_PATH | os.O_NOFOLLOW, resolve=resolve)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return -1

    def _attributes(self, fd: int, entry: Entry) -> None:
        """Owner first: changing it clears set-ID bits and file capabilities."""
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        if entry.xattrs:
            for key, value in wanted_xattrs(entry).items():
                _set_xattr(fd, key, value)

    # Whiteouts and removal

    def _whiteout(self, parent_path: bytes, name: bytes) -> None:
        if name == OPAQUE_MARKER:
            parent = self._directory(parent_path)
            if not self._keep:
                self._own(parent_path)
                self._remove_foreign(parent, parent_path)
            elif self._lower:
                os.setxattr(f"/proc/self/fd/{parent}", OVERLAY_OPAQUE, b"y")
            return
        if name.startswith(WHITEOUT_META_PREFIX):
            return
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise InvalidTar(f"the whiteout {os.fsdecode(name)!r} names nothing")
        path = parent_path + b"/" + hidden if parent_path else hidden
        parent = self._directory(parent_path)
        if not self._keep:
            self._own(parent_path)
            if path not in self._ours:
                self._clear(parent, hidden)
            elif stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                inner = open_in_root(parent, hidden, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    self._remove_foreign(inner, path)
                finally:
                    os.close(inner)
            return
        below = self._open_below(path)
        if below < 0:
            return  # A whiteout of nothing would show in a directory that is not merged.
        os.close(below)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
            self.inodes += 1
            self._whiteouts.append(path)
        except FileExistsError:
            # The layer has something new of this name; a directory must hide the one below.
            place = f"/proc/self/fd/{parent}/".encode() + hidden
            if stat.S_ISDIR(os.lstat(place).st_mode):
                os.setxattr(place, OVERLAY_OPAQUE, b"y", follow_symlinks=False)

    def _remove_foreign(self, parent: int, path: bytes) -> None:
        """Remove what the layers below left in a directory that is opaque."""
        prefix = path + b"/" if path else b""
        keep = {p[len(prefix) :].split(b"/", 1)[0] for p in self._ours if p.startswith(prefix)}
        fd = open_in_root(parent, b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = [os.fsencode(name) for name in os.listdir(fd)]
        finally:
            os.close(fd)
        for name in names:
            child = prefix + name
            if name not in keep:
                self._clear(parent, name)
            elif child not in self._ours or stat.S_ISDIR(
                os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            ):
                inner = open_in_root(parent, name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    self._remove_foreign(inner, child)
                finally:
                    os.close(inner)

    def _clear(self, parent: int, name: bytes) -> None:
        """Remove what is in the way, of whatever kind."""
        self._forget(keep=parent)
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            remove_tree(os.fsdecode(name), dir_fd=parent)

    def _forget(self, keep: int = -1) -> None:
        """Close the cached directories: a removal may have made their paths mean others."""
        for path, fd in list(self._cache.items()):
            if fd != keep:
                os.close(fd)
                del self._cache[path]


def _is_same(info: os.stat_result, parent: int, name: bytes) -> bool:
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (info.st_dev, info.st_ino)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _set_xattr(place: int | bytes, key: bytes, value: bytes) -> None:
    try:
        if isinstance(place, int):
            os.setxattr(place, key, value)
        else:
            os.setxattr(place, key, value, follow_symlinks=False)
    except OSError as error:
        # The file system has no such attributes, or not on this kind of file.
        if error.errno == errno.ENOTSUP or (
            error.errno == errno.EPERM and key.startswith(b"user.")
        ):
            return
        raise
