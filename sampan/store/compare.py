"""The difference of two whole trees, laid out as overlayfs' upper directory would be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sampan.image.layer import OVERLAY_OPAQUE
from sampan.store.copytree import copy_attributes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def difference(tree: Path, lower: Path | None, place: Path) -> None:
    """Make ``place`` hold what ``tree`` has and ``lower`` has not, with whiteouts for the reverse.

    Files are hard-linked, so ``place`` must be on the same file system as ``tree`` and be only
    read.  A file counts as the same when type, mode, owner, size, time and attributes are.  The
    tree may change meanwhile: directories are held open, and no symbolic link is followed.
    """
    place.mkdir(mode=0o700)
    fds = [os.open(tree, _DIRECTORY), os.open(place, _DIRECTORY)]
    try:
        below = None
        if lower is not None:
            below = os.open(lower, _DIRECTORY)
            fds.append(below)
        _compare(fds[0], below, fds[1])
    finally:
        for fd in fds:
            os.close(fd)


def _compare(tree: int, lower: int | None, place: int) -> bool:
    """Fill ``place``; returns whether anything differs."""
    changed = lower is None or _of(tree) != _of(lower)
    names = set(os.listdir(tree))
    old = set(os.listdir(lower)) if lower is not None else set()
    for name in sorted(names):
        try:
            info = os.stat(name, dir_fd=tree, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                changed |= _compare_directory(tree, lower if name in old else None, place, name)
            elif name not in old or lower is None or _of(tree, name) != _of(lower, name):
                os.link(name, name, src_dir_fd=tree, dst_dir_fd=place, follow_symlinks=False)
                changed = True
        except FileNotFoundError:
            continue  # Removed while we read.
    for name in sorted(old - names):
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=place)
        changed = True
    copy_attributes(f"/proc/self/fd/{tree}/.", f"/proc/self/fd/{place}/.", os.fstat(tree))
    return changed


def _compare_directory(tree: int, lower: int | None, place: int, name: str) -> bool:
    inner = os.open(name, _DIRECTORY, dir_fd=tree)
    below = None
    replaced = False
    try:
        if lower is not None:
            try:
                below = os.open(name, _DIRECTORY, dir_fd=lower)
            except OSError:
                replaced = True  # It was no directory.
        os.mkdir(name, 0o700, dir_fd=place)
        made = os.open(name, _DIRECTORY, dir_fd=place)
        try:
            changed = _compare(inner, below, made)
            if replaced:
                os.setxattr(made, OVERLAY_OPAQUE, b"y")
        finally:
            os.close(made)
        if not changed:
            os.rmdir(name, dir_fd=place)
        return changed
    finally:
        os.close(inner)
        if below is not None:
            os.close(below)


def _of(directory: int, name: str = ".") -> tuple[object, ...]:
    """What of a file counts."""
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    path = f"/proc/self/fd/{directory}/{name}"
    xattrs = {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
    }
    kind = stat.S_IFMT(info.st_mode)
    link = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(info.st_mode) else ""
    size = info.st_size if stat.S_ISREG(info.st_mode) else 0
    owner = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_rdev)
    return (kind, *owner, size, info.st_mtime_ns, link, xattrs)
