"""The first use of a volume: what the image has at the mount point becomes the volume's content.

All access is by directory descriptors, so that no symbolic link of the image leads outside of it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from sampan.engine.tree_untar import change_mode
from sampan.errors import InvalidParameter
from sampan.linux.openat2 import open_in_root
from sampan.linux.trees import remove_tree

_STAGING = "_copy"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(volume: Path, root: int, destination: str, *, in_place: bool) -> None:
    """Copy the directory ``destination`` of ``root`` into the empty directory ``volume``.

    Does nothing when the image has no such directory.  Unless ``in_place`` (somebody has the
    volume mounted), the copy is made beside and renamed, so that it is there whole or not at all.
    Raises InvalidParameter when the image has a file there.
    """
    try:
        source = open_in_root(root, destination, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(source).st_mode):
            raise InvalidParameter(
                f"cannot mount volume over existing file, file exists {destination}"
            )
        if in_place:
            _copy_into(source, volume)
            return
        staging = volume.parent / _STAGING
        remove_tree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            _copy_into(source, staging)
            staging.rename(volume)  # rename(2) replaces an empty directory atomically
        except BaseException:
            remove_tree(staging, ignore_errors=True)
            raise
    finally:
        os.close(source)


def _copy_into(source: int, target: Path) -> None:
    readable = os.open(".", _OPEN_DIRECTORY, dir_fd=source)
    try:
        directory = os.open(target, _OPEN_DIRECTORY)
        try:
            copy_tree(readable, directory)
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.close(readable)


@dataclass(slots=True)
class _Level:
    """One directory being copied."""

    source: int
    target: int
    names: list[str]


@dataclass(slots=True)
class _Tree:
    """The copy of one tree: directories still open, and where files with several names went."""

    levels: list[_Level] = field(default_factory=list)
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    root: int = -1


def copy_tree(source: int, target: int) -> None:
    """Copy everything in the directory ``source`` into ``target``, and its attributes.

    Owners, modes, times, extended attributes, hard links, symbolic links and devices are kept.
    Both descriptors stay open.
    """
    tree = _Tree(root=target)
    tree.levels.append(_Level(source, target, os.listdir(source)))
    paths = [""]
    try:
        while tree.levels:
            level = tree.levels[-1]
            if level.names:
                name = level.names.pop()
                if _copy_entry(tree, level, name, f"{paths[-1]}{name}"):
                    paths.append(f"{paths[-1]}{name}/")
                continue
            _copy_attributes(os.fstat(level.source), level.source, level.target)
            tree.levels.pop()
            paths.pop()
            if level.source != source:
                os.close(level.source)
                os.close(level.target)
    except BaseException:
        for level in tree.levels[1:]:
            os.close(level.source)
            os.close(level.target)
        raise


def _copy_entry(tree: _Tree, level: _Level, name: str, path: str) -> bool:
    """Copy one entry; a directory is only begun: true says that it became the current level."""
    info = os.stat(name, dir_fd=level.source, follow_symlinks=False)
    mode = info.st_mode
    if stat.S_ISDIR(mode):
        source = os.open(name, _OPEN_DIRECTORY, dir_fd=level.source)
        try:
            os.mkdir(name, 0o700, dir_fd=level.target)
            target = os.open(name, _OPEN_DIRECTORY, dir_fd=level.target)
        except BaseException:
            os.close(source)
            raise
        tree.levels.append(_Level(source, target, os.listdir(source)))
        return True
    key = (info.st_dev, info.st_ino)
    if info.st_nlink > 1 and key in tree.links:
        os.link(
            tree.links[key],
            name,
            src_dir_fd=tree.root,
            dst_dir_fd=level.target,
            follow_symlinks=False,
        )
        return False
    if stat.S_ISREG(mode):
        _copy_file(level, name, info)
    else:
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=level.source), name, dir_fd=level.target)
        elif stat.S_ISSOCK(mode):
            return False
        else:
            os.mknod(name, mode, info.st_rdev, dir_fd=level.target)
        _copy_special_attributes(level, name, info)
    if info.st_nlink > 1:
        tree.links[key] = path
    return False


def _copy_file(level: _Level, name: str, info: os.stat_result) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=level.source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(name, flags, 0o600, dir_fd=level.target)
        try:
            _copy_content(source, target, info.st_size)
            _copy_attributes(info, source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_content(source: int, target: int, size: int) -> None:
    """Share the blocks where the file systems can, else copy them inside the kernel."""
    left = size
    try:
        while left > 0 and (copied := os.copy_file_range(source, target, left)):
            left -= copied
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        while left > 0 and (copied := os.sendfile(target, source, None, left)):
            left -= copied


def _copy_attributes(info: os.stat_result, source: int, target: int) -> None:
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    _copy_xattrs(source, target)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_special_attributes(level: _Level, name: str, info: os.stat_result) -> None:
    os.chown(name, info.st_uid, info.st_gid, dir_fd=level.target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        change_mode(level.target, name, stat.S_IMODE(info.st_mode))
    times = (info.st_atime_ns, info.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=level.target, follow_symlinks=False)


def _copy_xattrs(source: int, target: int) -> None:
    try:
        names = os.listxattr(source)
    except OSError:
        return  # the file system has none
    for name in names:
        # The overlay's own marks are not the image's content.
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, name, os.getxattr(source, name))
