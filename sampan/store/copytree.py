"""Copies of directory trees, complete and cheap where the file system can share blocks."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FICLONE = 0x40049409


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with everything it has: owners, modes, times, attributes, devices, hard links,
    holes.  ``target`` must not exist."""
    links: dict[tuple[int, int], str] = {}
    _copy_directory(os.fspath(source), os.fspath(target), links)


def _copy_directory(source: str, target: str, links: dict[tuple[int, int], str]) -> None:
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            place = f"{target}/{entry.name}"
            if stat.S_ISDIR(info.st_mode):
                _copy_directory(entry.path, place, links)
            else:
                copy_node(entry.path, place, info, links)
    copy_attributes(source, target, os.lstat(source))


def copy_node(
    source: str, target: str, info: os.stat_result, links: dict[tuple[int, int], str]
) -> None:
    """Copy one thing that is not a directory; ``links`` finds the files copied already."""
    if info.st_nlink > 1:
        first = links.setdefault((info.st_dev, info.st_ino), target)
        if first != target:
            os.link(first, target, follow_symlinks=False)
            return
    if stat.S_ISREG(info.st_mode):
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                copy_file(reading, writing, info)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, stat.S_IFMT(info.st_mode) | 0o600, info.st_rdev)
    copy_attributes(source, target, info)


def copy_attributes(source: str, target: str, info: os.stat_result) -> None:
    """Give ``target`` the owner, mode, attributes and time of ``source``; links are not followed."""
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))
    for key in os.listxattr(source, follow_symlinks=False):
        with _unsupported_ignored():
            value = os.getxattr(source, key, follow_symlinks=False)
            os.setxattr(target, key, value, follow_symlinks=False)
    os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns), follow_symlinks=False)


def copy_file(reading: int, writing: int, info: os.stat_result) -> None:
    """Copy a regular file's data and all that belongs to it into a new, empty one."""
    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
        _copy_extents(reading, writing)
    os.fchown(writing, info.st_uid, info.st_gid)
    os.fchmod(writing, stat.S_IMODE(info.st_mode))
    for key in os.listxattr(reading):
        with _unsupported_ignored():
            os.setxattr(writing, key, os.getxattr(reading, key))
    os.utime(writing, ns=(info.st_mtime_ns, info.st_mtime_ns))


@contextmanager
def _unsupported_ignored() -> Iterator[None]:
    """For attributes that the file system does not have, or that went away."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise


def _copy_extents(reading: int, writing: int) -> None:
    """Copy the data and leave the holes."""
    size = os.fstat(reading).st_size
    os.ftruncate(writing, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(reading, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(reading, start, os.SEEK_HOLE)
        while start < position:
            copied = os.copy_file_range(reading, writing, position - start, start, start)
            if copied == 0:
                return
            start += copied
