"""Copying between trees by descriptors: contents, modes, owners, times, links and attributes."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass, field

from sampan.build.dockerfile.ignore import IgnoreMatcher
from sampan.build.ops.owners import ModeChange
from sampan.build.ops.select import Selected, walk
from sampan.build.ops.tree import Tree
from sampan.errors import DiskFull, InvalidParameter
from sampan.linux.openat2 import make_directories

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1 << 20
_SMALL = 1 << 16


@dataclass(slots=True)
class Copier:
    """Copies selections of ``source`` into ``target``.

    ``owner`` is given to everything that is made; without one, files of a local context become
    root's and files of other trees keep theirs.
    """

    source: Tree
    target: Tree
    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None
    exclude: IgnoreMatcher = field(default_factory=lambda: IgnoreMatcher(()))
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def copy(self, chosen: Selected, dest: str, *, into: bool) -> None:
        """Copy one selection to ``dest``; ``into`` (or an existing directory) makes ``dest`` the
        holder of a file.  A directory is copied by its contents.  Raises InvalidParameter when a
        directory would replace a file, DiskFull when the disk is full.
        """
        try:
            if chosen.is_dir:
                where = posixpath.join(dest, chosen.target)
                self._contents(chosen, where)
                return
            if self.exclude and self.exclude.excludes(posixpath.basename(chosen.path)):
                return
            if into or self._is_dir(dest):
                dest = posixpath.join(dest, chosen.target)
            holder = self._directory(posixpath.dirname(dest.rstrip("/")) or "/")
            try:
                # The descriptor was reached with links followed, so read through it.
                fd = self.source.open("/" + chosen.path, os.O_PATH)
                try:
                    self._one(f"/proc/self/fd/{fd}", None, chosen.info, dest, holder)
                finally:
                    os.close(fd)
            finally:
                os.close(holder)
        except OSError as error:
            raise explained(error, dest) from error

    def _is_dir(self, path: str) -> bool:
        try:
            os.close(self.target.open(path, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            return False
        return True

    def _directory(self, path: str) -> int:
        return ensure_directory(self.target, path, self.owner)

    def _contents(self, chosen: Selected, dest: str) -> None:
        existed = self._is_dir(dest)
        root = self._directory(dest)
        holders: dict[str, int] = {"": root}
        open_path: list[str] = []
        finished: list[tuple[int, os.stat_result]] = []
        try:
            if not existed:
                finished.append((os.dup(root), chosen.info))
                self._metadata_fd(root, chosen.info, directory=True)
            for dirfd, name, relative, info in walk(self.source, chosen.path, self.exclude):
                parent, _, base = relative.rpartition("/")
                # Directories come before what they hold: drop those that have been left.
                while open_path and not (
                    parent == open_path[-1] or parent.startswith(open_path[-1] + "/")
                ):
                    os.close(holders.pop(open_path.pop()))
                holder = holders[parent]
                if stat.S_ISDIR(info.st_mode):
                    fd = self._enter(base, holder)
                    holders[relative] = fd
                    open_path.append(relative)
                    self._metadata_fd(fd, info, directory=True)
                    self._attributes(name, dirfd, fd)
                    finished.append((os.dup(fd), info))
                    if len(finished) > 200:
                        self._settle(finished, keep=len(open_path) + 1)
                else:
                    self._one(name, dirfd, info, posixpath.join(dest, relative), holder)
            self._settle(finished, keep=0)
        finally:
            for fd in holders.values():
                os.close(fd)
            for fd, _ in finished:
                os.close(fd)

    def _settle(self, finished: list[tuple[int, os.stat_result]], keep: int) -> None:
        """Set the times of directories into which nothing more is written."""
        while len(finished) > keep:
            fd, info = finished.pop(0) if keep else finished.pop()
            self._times(f"/proc/self/fd/{fd}", None, info)
            os.close(fd)

    def _enter(self, name: str, holder: int) -> int:
        try:
            os.mkdir(name, 0o700, dir_fd=holder)
        except FileExistsError:
            pass
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=holder)
        except NotADirectoryError:
            raise InvalidParameter(
                f"cannot copy to non-directory: {name} is a file in the target"
            ) from None

    def _one(
        self, name: str, dirfd: int | None, info: os.stat_result, path: str, holder: int
    ) -> None:
        """Anything but a directory, to ``path`` whose directory ``holder`` is."""
        mode = info.st_mode
        base = posixpath.basename(path)
        shared = info.st_nlink > 1 and not self.source.local
        if shared and self._link(info, base, holder):
            return
        if stat.S_ISREG(mode):
            self._file(name, dirfd, info, base, holder)
        elif stat.S_ISLNK(mode):
            link = os.readlink(name, dir_fd=dirfd)
            try:
                os.symlink(link, base, dir_fd=holder)
            except FileExistsError:
                self._make_room(base, holder)
                os.symlink(link, base, dir_fd=holder)
            uid, gid = self._owner(info)
            if (uid, gid) != (0, 0):
                os.chown(base, uid, gid, dir_fd=holder, follow_symlinks=False)
            self._times(base, holder, info)
            return
        elif stat.S_ISSOCK(mode):
            return
        else:
            self._make_room(base, holder)
            os.mknod(base, stat.S_IFMT(mode) | 0o600, info.st_rdev, dir_fd=holder)
            uid, gid = self._owner(info)
            os.chown(base, uid, gid, dir_fd=holder, follow_symlinks=False)
            os.chmod(f"/proc/self/fd/{holder}/{base}", self._mode(info, directory=False))
            self._times(base, holder, info)
        if shared:
            self._links[(info.st_dev, info.st_ino)] = path

    def _link(self, info: os.stat_result, base: str, holder: int) -> bool:
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

    def _file(
        self, name: str, dirfd: int | None, info: os.stat_result, base: str, holder: int
    ) -> None:
        flags = _READ if dirfd is not None else _READ & ~os.O_NOFOLLOW
        source = os.open(name, flags, dir_fd=dirfd)
        try:
            try:
                target = os.open(base, _NEW, 0o600, dir_fd=holder)
            except FileExistsError:
                self._make_room(base, holder)
                target = os.open(base, _NEW, 0o600, dir_fd=holder)
            try:
                copy_data(source, target, info.st_size)
                self._metadata_fd(target, info, directory=False)
                self._copy_attributes(source, target)
                os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
            finally:
                os.close(target)
        finally:
            os.close(source)

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

    def _owner(self, info: os.stat_result) -> tuple[int, int]:
        if self.owner is not None:
            return self.owner
        return (0, 0) if self.source.local else (info.st_uid, info.st_gid)

    def _mode(self, info: os.stat_result, *, directory: bool) -> int:
        if self.mode is None:
            return stat.S_IMODE(info.st_mode)
        return self.mode.apply(info.st_mode, directory=directory)

    def _metadata_fd(self, fd: int, info: os.stat_result, *, directory: bool) -> None:
        uid, gid = self._owner(info)
        path = f"/proc/self/fd/{fd}" if directory else None
        if (uid, gid) != (0, 0) or directory:
            os.chown(path if path else fd, uid, gid)
        os.chmod(path if path else fd, self._mode(info, directory=directory))

    def _times(self, name: str, dirfd: int | None, info: os.stat_result) -> None:
        times = (info.st_mtime_ns, info.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=dirfd, follow_symlinks=dirfd is None)

    def _attributes(self, name: str, dirfd: int, target: int) -> None:
        if self.source.local:
            return
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dirfd)
        try:
            self._copy_attributes(fd, target)
        finally:
            os.close(fd)

    def _copy_attributes(self, source: int, target: int) -> None:
        try:
            names = os.listxattr(source)
        except OSError:
            return
        for name in names:
            # Overlay's own marks describe the source's layers, not the file.
            if name.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
                continue
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
                    raise


def copy_data(source: int, target: int, size: int) -> None:
    """The contents of one regular file; large ones inside the kernel."""
    if size <= _SMALL:
        while data := os.read(source, _SMALL):
            write_all(target, data)
        return
    while True:
        try:
            if not os.copy_file_range(source, target, _CHUNK * 64):
                return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            break
    while os.sendfile(target, source, None, _CHUNK):
        pass


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; a full disk may take only a part at first."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def ensure_directory(tree: Tree, path: str, owner: tuple[int, int] | None) -> int:
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
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=holder)
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
