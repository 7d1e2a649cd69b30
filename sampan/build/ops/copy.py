"""Copying from a tree into a folder: contents, modes, owners, times, links and attributes."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from sampan.build.ops.owners import ModeChange
from sampan.build.ops.select import Selected
from sampan.build.ops.tree import NOTHING, Folder, Item, Status, Tree
from sampan.errors import DiskFull, InvalidParameter
from sampan.image.ignore import IgnoreMatcher
from sampan.linux.openat2 import make_directories

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PENDING = 200  # directories whose times are still to be set


@dataclass(slots=True)
class Copier:
    """Copies selections of ``source`` into ``target``.

    ``owner`` is given to everything that is made; without one, files of a local context become
    root's and files of other trees keep theirs.
    """

    source: Tree
    target: Folder
    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None
    exclude: IgnoreMatcher = NOTHING
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def copy(self, chosen: Selected, dest: str, *, into: bool) -> None:
        """Copy one selection to ``dest``; ``into`` (or an existing directory) makes ``dest`` the
        holder of a file; a link there is followed.  A directory is copied by its contents: of its
        own it gives its times alone, and with ``target`` (``--parents``) its mode and owner too.
        Raises InvalidParameter when a directory would replace a file, DiskFull when the disk is
        full.
        """
        try:
            if chosen.is_dir:
                self._contents(chosen, posixpath.join(dest, chosen.target))
                return
            dest = self.target.followed(dest)
            if self.exclude and self.exclude.excludes(posixpath.basename(chosen.path)):
                return
            if into or self.target.is_dir(dest):
                dest = posixpath.join(dest, chosen.target)
            holder = self._directory(posixpath.dirname(dest.rstrip("/")) or "/")
            try:
                with self.source.item(chosen.path) as item:
                    self._one(item, dest, holder)
            finally:
                os.close(holder)
        except OSError as error:
            raise explained(error, dest) from error

    def _directory(self, path: str) -> int:
        return ensure_directory(self.target, path, self.owner)

    def _contents(self, chosen: Selected, dest: str) -> None:
        existed = self.target.is_dir(dest)
        root = self._directory(dest)
        holders: dict[str, int] = {"": root}
        entered: list[str] = []
        finished: list[tuple[int, Status]] = []
        try:
            if not existed and chosen.target:
                self._finish_directory(root, chosen.info)
            # A context's root has no time of its own: it is wherever the context is.
            if dest.strip("/") and (chosen.path or not self.source.local):
                finished.append((os.dup(root), chosen.info))
            for item in self.source.walk(chosen.path, self.exclude):
                parent, _, base = item.relative.rpartition("/")
                # Directories come before what they hold: drop those that have been left.
                while entered and not (
                    parent == entered[-1] or parent.startswith(entered[-1] + "/")
                ):
                    os.close(holders.pop(entered.pop()))
                holder = holders[parent]
                if stat.S_ISDIR(item.info.st_mode):
                    fd = self._enter(base, holder)
                    holders[item.relative] = fd
                    entered.append(item.relative)
                    self._finish_directory(fd, item.info)
                    self._attributes(item, fd)
                    finished.append((os.dup(fd), item.info))
                    if len(finished) > _PENDING:
                        self._settle(finished, keep=len(entered) + 1)
                else:
                    self._one(item, posixpath.join(dest, item.relative), holder)
            self._settle(finished, keep=0)
        finally:
            for fd in holders.values():
                os.close(fd)
            for fd, _ in finished:
                os.close(fd)

    def _settle(self, finished: list[tuple[int, Status]], keep: int) -> None:
        """Set the times of directories into which nothing more is written."""
        while len(finished) > keep:
            fd, info = finished.pop(0) if keep else finished.pop()
            os.utime(f"/proc/self/fd/{fd}", ns=(info.st_mtime_ns, info.st_mtime_ns))
            os.close(fd)

    def _enter(self, name: str, holder: int) -> int:
        try:
            os.mkdir(name, 0o700, dir_fd=holder)
        except FileExistsError:
            pass
        try:
            return os.open(name, _DIRECTORY, dir_fd=holder)
        except NotADirectoryError:
            raise InvalidParameter(
                f"cannot copy to non-directory: {name} is a file in the target"
            ) from None

    def _finish_directory(self, fd: int, info: Status) -> None:
        path = f"/proc/self/fd/{fd}"
        os.chown(path, *self.owner_of(info))
        os.chmod(path, self.mode_of(info, directory=True))

    def _one(self, item: Item, path: str, holder: int) -> None:
        """Anything but a directory, to ``path`` whose directory ``holder`` is."""
        info = item.info
        mode = info.st_mode
        base = posixpath.basename(path)
        shared = info.st_nlink > 1
        if shared and self._link(info, base, holder):
            return
        if stat.S_ISREG(mode):
            self._file(item, base, holder)
        elif stat.S_ISLNK(mode):
            self._symlink(item, base, holder)
            return
        elif stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and info.st_rdev == 0):
            return  # A socket is no content; the device 0:0 means a deletion to overlayfs.
        else:
            self._make_room(base, holder)
            os.mknod(base, stat.S_IFMT(mode) | 0o600, info.st_rdev, dir_fd=holder)
            os.chown(base, *self.owner_of(info), dir_fd=holder, follow_symlinks=False)
            os.chmod(f"/proc/self/fd/{holder}/{base}", self.mode_of(info, directory=False))
            self._times(base, holder, info)
        if shared:
            self._links[(info.st_dev, info.st_ino)] = path

    def _link(self, info: Status, base: str, holder: int) -> bool:
        """Link to what was copied from the same inode before, if anything was."""
        linked = self._links.get((info.st_dev, info.st_ino))
        if linked is None:
            return False
        fd = self.target.open(linked, os.O_PATH | os.O_NOFOLLOW)
        try:
            self._make_room(base, holder)
            os.link(f"/proc/self/fd/{fd}", base, dst_dir_fd=holder, follow_symlinks=True)
        finally:
            os.close(fd)
        return True

    def _symlink(self, item: Item, base: str, holder: int) -> None:
        link = item.link()
        try:
            os.symlink(link, base, dir_fd=holder)
        except FileExistsError:
            self._make_room(base, holder)
            os.symlink(link, base, dir_fd=holder)
        uid, gid = self.owner_of(item.info)
        if (uid, gid) != (0, 0):
            os.chown(base, uid, gid, dir_fd=holder, follow_symlinks=False)
        self._times(base, holder, item.info)

    def _file(self, item: Item, base: str, holder: int) -> None:
        info = item.info
        try:
            fd = os.open(base, _NEW, 0o600, dir_fd=holder)
        except FileExistsError:
            self._make_room(base, holder)
            fd = os.open(base, _NEW, 0o600, dir_fd=holder)
        try:
            item.write_to(fd)
            uid, gid = self.owner_of(info)
            if (uid, gid) != (0, 0):
                os.fchown(fd, uid, gid)
            os.fchmod(fd, self.mode_of(info, directory=False))
            self._attributes(item, fd)
            os.utime(fd, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            os.close(fd)

    def _make_room(self, base: str, holder: int) -> None:
        """Remove what stands in the way; a directory does not give way to a file."""
        try:
            os.unlink(base, dir_fd=holder)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            raise InvalidParameter(
                f"cannot copy a file over the directory {base}: name another destination"
            ) from None

    def owner_of(self, info: Status) -> tuple[int, int]:
        if self.owner is not None:
            return self.owner
        return (0, 0) if self.source.local else (info.st_uid, info.st_gid)

    def mode_of(self, info: Status, *, directory: bool) -> int:
        if self.mode is None:
            return stat.S_IMODE(info.st_mode)
        return self.mode.apply(info.st_mode, directory=directory)

    def _times(self, name: str, dirfd: int, info: Status) -> None:
        times = (info.st_mtime_ns, info.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=dirfd, follow_symlinks=False)

    def attributes_of(self, item: Item) -> Iterator[tuple[str, bytes]]:
        """Extended attributes of the copy."""
        for name, value in item.attributes():
            # Overlay's own marks describe the source's layers, not the file.
            if not name.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
                yield name, value

    def _attributes(self, item: Item, fd: int) -> None:
        for name, value in self.attributes_of(item):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise


def ensure_directory(tree: Folder, path: str, owner: tuple[int, int] | None) -> int:
    """Open ``path``, making what is missing with ``owner`` (root by default) and mode 0755."""
    try:
        return tree.open(path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise InvalidParameter(f"cannot make the directory {path}: a file is in the way") from None
    parent, name = posixpath.split(path.rstrip("/"))
    holder = ensure_directory(tree, parent or "/", owner)
    try:
        try:
            os.mkdir(name, 0o755, dir_fd=holder)
        except FileExistsError:
            # A link whose target is missing: make the target.
            return make_directories(tree.fd, path)
        fd = os.open(name, _DIRECTORY, dir_fd=holder)
        os.fchmod(fd, 0o755)
        if owner is not None and owner != (0, 0):
            os.fchown(fd, *owner)
        return fd
    finally:
        os.close(holder)


def explained(error: OSError, where: str) -> Exception:
    """The error as one of ours, where it is the user's or the disk's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left on the disk while writing {where}")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidParameter(f"cannot write {where}: {error.strerror}")
    return error
