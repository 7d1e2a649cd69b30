"""A tar stream unpacked into a tree that something else may be changing at the same time.

Each member's directory is opened inside of the root anew (symbolic links of the tree are followed,
but lead nowhere else), and the member is made relative to that descriptor without following.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

from sampan.errors import InvalidParameter
from sampan.image import tar
from sampan.image.tar import InvalidTar, StreamCursor, entries
from sampan.linux.openat2 import make_directories, open_in_root
from sampan.linux.trees import remove_tree
from sampan.runtime.userns import Mapping, as_root_of

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Policy:
    """How to unpack: ``strict`` refuses to replace a directory by something else, or the
    reverse; ``owner`` is who everything shall belong to (None: as the archive says); ``mapping``
    is that of the user namespace whose numbers both are."""

    strict: bool = False
    owner: tuple[int, int] | None = None
    mapping: Mapping | None = None


def unpack(stream: BinaryIO, root: int, directory: str, policy: Policy) -> None:
    """Unpack the uncompressed tar ``stream`` into ``directory`` of ``root``.

    Raises InvalidParameter for a malformed or hostile archive, and OSError.
    """
    if policy.mapping:
        # The container's file system takes only files of its own users.
        with as_root_of(policy.mapping):
            _unpack(stream, root, directory, policy)
    else:
        _unpack(stream, root, directory, policy)


def _unpack(stream: BinaryIO, root: int, directory: str, policy: Policy) -> None:
    base = open_in_root(root, directory, _OPEN_DIRECTORY)
    try:
        cursor = StreamCursor(stream)
        unpacking = _Unpacking(root, directory, base, cursor, policy)
        try:
            for entry in entries(cursor):
                unpacking.add(entry)
            cursor.drain()
        except InvalidTar as error:
            raise InvalidParameter(f"invalid archive: {error}") from None
        unpacking.finish()
    finally:
        os.close(base)


class _Unpacking:
    def __init__(
        self, root: int, directory: str, base: int, cursor: StreamCursor, policy: Policy
    ) -> None:
        self._root = root
        self._directory = os.fsencode(directory).rstrip(b"/")
        self._base = base
        self._cursor = cursor
        self._policy = policy
        self._times: dict[bytes, int] = {}

    def add(self, entry: tar.Entry) -> None:
        parts = _components(entry.name)
        if not parts:
            # The archive's own root is the directory that is there already.
            return
        path = b"/".join(parts)
        parent = self._open_parent(b"/".join(parts[:-1]))
        try:
            self._make(parent, parts[-1], path, entry)
        finally:
            os.close(parent)

    def finish(self) -> None:
        """Set the times of directories, which what was put into them has changed."""
        for path, mtime in self._times.items():
            try:
                fd = open_in_root(self._root, self._inside(path), _OPEN_DIRECTORY)
            except OSError:
                continue
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    def _inside(self, path: bytes) -> bytes:
        return self._directory + b"/" + path

    def _open_parent(self, path: bytes) -> int:
        if not path:
            return os.dup(self._base)
        try:
            return make_directories(self._root, self._inside(path))
        except NotADirectoryError:
            raise InvalidTar(f"{os.fsdecode(path)!r} is not a directory") from None

    def _make(self, parent: int, name: bytes, path: bytes, entry: tar.Entry) -> None:
        is_directory = entry.type == tar.DIRECTORY
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            there = stat.S_ISDIR(info.st_mode)
            if self._policy.strict and there != is_directory:
                old, new = (
                    ("directory", "non-directory") if there else ("non-directory", "directory")
                )
                shown = os.fsdecode(self._inside(path))
                raise InvalidParameter(f'cannot overwrite {old} "{shown}" with {new} "{shown}"')
            if not (there and is_directory):
                _remove(parent, name, there)
        if is_directory:
            self._make_directory(parent, name, path, entry)
        elif entry.type == tar.REGULAR:
            self._make_file(parent, name, entry)
        elif entry.type == tar.HARDLINK:
            self._make_link(parent, name, entry)
        else:
            self._make_special(parent, name, entry)

    def _make_directory(self, parent: int, name: bytes, path: bytes, entry: tar.Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        fd = os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            self._attributes(fd, entry)
        finally:
            os.close(fd)
        self._times[path] = entry.mtime

    def _make_file(self, parent: int, name: bytes, entry: tar.Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            pieces = entry.sparse if entry.sparse is not None else [(0, entry.size)]
            if entry.sparse is not None:
                os.ftruncate(fd, entry.size)
            for offset, length in pieces:
                os.lseek(fd, offset, os.SEEK_SET)
                for chunk in self._cursor.chunks(length):
                    while chunk:
                        chunk = chunk[os.write(fd, chunk) :]
            self._attributes(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        except BaseException:
            os.unlink(name, dir_fd=parent)  # a file is there whole or not at all
            raise
        finally:
            os.close(fd)

    def _make_link(self, parent: int, name: bytes, entry: tar.Entry) -> None:
        parts = _components(entry.linkname)
        if not parts:
            raise InvalidTar(f"the hard link {os.fsdecode(entry.name)!r} has no target")
        source = self._open_parent(b"/".join(parts[:-1]))
        try:
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise InvalidTar(
                f"the hard link {os.fsdecode(entry.name)!r} points at "
                f"{os.fsdecode(entry.linkname)!r}, which is not there"
            ) from None
        finally:
            os.close(source)

    def _make_special(self, parent: int, name: bytes, entry: tar.Entry) -> None:
        if entry.type == tar.SYMLINK:
            if not entry.linkname:
                raise InvalidTar(f"the symbolic link {os.fsdecode(entry.name)!r} has no target")
            os.symlink(entry.linkname, name, dir_fd=parent)
        else:
            kinds = {tar.CHAR: stat.S_IFCHR, tar.BLOCKDEV: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
            device = os.makedev(entry.major, entry.minor)
            os.mknod(name, kinds[entry.type] | 0o600, device, dir_fd=parent)
        uid, gid = self._owner(entry)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if entry.type != tar.SYMLINK:
            change_mode(parent, name, entry.mode)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _owner(self, entry: tar.Entry) -> tuple[int, int]:
        """The numbers of the entry's owner on the host."""
        uid, gid = self._policy.owner or (entry.uid, entry.gid)
        mapping = self._policy.mapping
        if mapping is None:
            return uid, gid
        try:
            return mapping.uid(uid), mapping.gid(gid)
        except ValueError as error:
            raise InvalidTar(f"{os.fsdecode(entry.name)!r}: {error}") from None

    def _attributes(self, fd: int, entry: tar.Entry) -> None:
        """Owner first: changing it clears set-ID bits and file capabilities."""
        uid, gid = self._owner(entry)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, entry.mode)
        for key, value in (entry.xattrs or {}).items():
            if key.startswith((b"trusted.", b"user.overlay.")):
                continue
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise


def _components(name: bytes) -> list[bytes]:
    """The parts of a member's name; raises InvalidTar when it leads out of the archive."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            raise InvalidTar(f"the name {os.fsdecode(name)!r} leads out of the archive")
        if part and part != b".":
            parts.append(part)
    return parts


def change_mode(parent: int, name: str | bytes, mode: int) -> None:
    """Change the mode of an entry that may be replaced meanwhile by a link to somewhere else."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)


def _remove(parent: int, name: bytes, is_directory: bool) -> None:
    if is_directory:
        remove_tree(os.fsdecode(name), dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)
