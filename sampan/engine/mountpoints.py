"""The empty files and directories that the engine itself leaves in a root file system.

They are places to mount on, made by a start, and the mark ``/.dockerenv``, by which programs find
out that they run in a container.  None of it is what the container changed: ``diff`` and ``commit``
leave them out, while ``export``, which shows the tree as it is, has them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sampan.linux.openat2 import O_PATH
from sampan.runtime.types import Mount

_MARK = ".dockerenv"
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")
_DIRECTORIES = ("dev", "proc", "sys")


def mark(mounts: Sequence[Mount]) -> None:
    """Put the mark into a root file system that nobody has mounted yet, given how it is to be:
    into the directory of its changes, by two system calls."""
    top = mounts[-1]
    place = top.source
    if top.type != "bind":
        place = next(option for option in top.options if option.startswith("upperdir="))[9:]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(f"{place}/{_MARK}", flags, 0o755))
    except FileExistsError:
        return  # The image has one, and the root file system is a copy of it.


def made(upper: Path, lower: int | None) -> set[str]:
    """Absolute paths of those in ``upper`` (an overlay's) that the tree ``lower`` (a directory
    descriptor, None for nothing) has not; with the directory of the files if there is no more in
    it and it is as it was.  Blocks for a few system calls."""
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {f"/{path}" for path in _FILES if _is_place(fd, path, lower, stat.S_IFREG)}
        if found and _is_unchanged(fd, "etc", lower, {path[5:] for path in found}):
            found.add("/etc")
        found |= {f"/{path}" for path in _DIRECTORIES if _is_place(fd, path, lower, stat.S_IFDIR)}
        mark = _stat(fd, _MARK)
        if mark is not None and stat.S_ISREG(mark.st_mode) and not mark.st_size:
            found.add(f"/{_MARK}")
        return found
    finally:
        os.close(fd)


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
