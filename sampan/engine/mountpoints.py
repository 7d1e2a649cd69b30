"""The empty files and directories that the engine itself leaves in a root file system.

They are places to mount on, made by a start; the mark ``/.dockerenv``, by which programs find out
that they run in a container; and the link ``/etc/mtab``, in which older ones look for the mounts.
None of it is what the container changed: ``diff`` and ``commit`` leave it out, while ``export``,
which shows the tree as it is, has it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sampan.linux.openat2 import O_PATH
from sampan.runtime.types import Mount
from sampan.store.content import disk_full_as_error
from sampan.store.overlay import writable

_MARK = ".dockerenv"
_MTAB, _MOUNTS = "etc/mtab", "/proc/mounts"
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
_DIRECTORIES = ("dev", "proc", "sys")


class Etc(NamedTuple):
    """Mode and owner of the directory ``/etc`` of an image that has no ``/etc/mtab``."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


def etc_of(root: int | None) -> Etc | None:
    """What :func:`mark` has to know of an image (a directory descriptor of its root, None if it
    is empty); None if it is to leave its ``/etc`` alone."""
    info = _stat(root, "etc")
    if info is None:
        return Etc()
    if not stat.S_ISDIR(info.st_mode) or _stat(root, _MTAB) is not None:
        return None
    return Etc(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)


def mark(mounts: Sequence[Mount], etc: Etc | None) -> None:
    """Put the mark and the link into a root file system that nobody has mounted yet, given how it
    is to be: into the directory of its changes, by a few system calls.  Raises DiskFull."""
    place = writable(mounts)
    with disk_full_as_error(place):
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _touch_mark(root)
            if etc is not None:
                _link_mounts(root, etc)
        finally:
            os.close(root)


def _touch_mark(root: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(_MARK, flags, 0o755, dir_fd=root))
    except FileExistsError:
        pass  # The image has one, and the root file system is a copy of it.


def _link_mounts(root: int, etc: Etc) -> None:
    try:
        os.mkdir("etc", etc.mode, dir_fd=root)
        if etc != Etc():
            os.chown("etc", etc.uid, etc.gid, dir_fd=root, follow_symlinks=False)
            os.chmod("etc", etc.mode, dir_fd=root)
    except FileExistsError:
        pass  # A copy has it all.
    folder = os.open("etc", O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    try:
        os.symlink(_MOUNTS, "mtab", dir_fd=folder)
    finally:
        os.close(folder)


def made(upper: Path, lower: int | None) -> set[str]:
    """Absolute paths of those in ``upper`` (an overlay's) that the tree ``lower`` (a directory
    descriptor, None for nothing) has not; with the directory of the files if there is no more in
    it and it is as it was.  Blocks for a few system calls."""
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {f"/{path}" for path in _FILES if _is_place(fd, path, lower, stat.S_IFREG)}
        if _is_link_to_mounts(fd) and _stat(lower, _MTAB) is None:
            found.add(f"/{_MTAB}")
        if found and _is_unchanged(fd, "etc", lower, {path[5:] for path in found}):
            found.add("/etc")
        found |= {f"/{path}" for path in _DIRECTORIES if _is_place(fd, path, lower, stat.S_IFDIR)}
        mark = _stat(fd, _MARK)
        if mark is not None and stat.S_ISREG(mark.st_mode) and not mark.st_size:
            found.add(f"/{_MARK}")
        return found
    finally:
        os.close(fd)


def _is_link_to_mounts(directory: int) -> bool:
    info = _stat(directory, _MTAB)
    if info is None or not stat.S_ISLNK(info.st_mode):
        return False
    return os.readlink(_MTAB, dir_fd=directory) == _MOUNTS


def _is_place(upper: int, path: str, lower: int | None, kind: int) -> bool:
    info = _stat(upper, path)
    if info is None or stat.S_IFMT(info.st_mode) != kind or _stat(lower, path) is not None:
        return False
    return not (info.st_size if kind == stat.S_IFREG else _names(upper, path))


def _is_unchanged(upper: int, path: str, lower: int | None, ours: set[str]) -> bool:
    if _names(upper, path) != ours:
        return False
    now, before = _stat(upper, path), _stat(lower, path)
    if now is None or before is None:
        return True
    return (now.st_mode, now.st_uid, now.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def _names(directory: int, path: str) -> set[str]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    try:
        return set(os.listdir(fd))
    finally:
        os.close(fd)


def _stat(directory: int | None, path: str) -> os.stat_result | None:
    """What is at ``path``, whose parent must be a directory and no link."""
    if directory is None:
        return None
    above, _, name = path.rpartition("/")
    parent = -1
    try:
        flags = O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
        parent = os.open(above or ".", flags, dir_fd=directory)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        if parent >= 0:
            os.close(parent)
