"""The difference of two whole trees, laid out as overlayfs' upper directory would be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sampan.image.layer import OVERLAY_OPAQUE
from sampan.store.copytree import copy_attributes


def difference(tree: Path, lower: Path | None, place: Path) -> None:
    """Make ``place`` hold what ``tree`` has and ``lower`` has not, with whiteouts for the reverse.

    Files are hard-linked, so ``place`` must be on the same file system as ``tree`` and be only
    read.  A file counts as the same when type, mode, owner, size, time and attributes are.
    """
    place.mkdir(mode=0o700)
    _compare(os.fspath(tree), os.fspath(lower) if lower else None, os.fspath(place))


def _compare(tree: str, lower: str | None, place: str) -> bool:
    """Fill ``place`` (which exists); returns whether anything differs."""
    changed = lower is None or _attributes(tree) != _attributes(lower)
    names = set(os.listdir(tree))
    for name in sorted(names):
        path, target = f"{tree}/{name}", f"{place}/{name}"
        below = (
            f"{lower}/{name}" if lower is not None and os.path.lexists(f"{lower}/{name}") else None
        )
        info = os.lstat(path)
        if stat.S_ISDIR(info.st_mode):
            replaced = below is not None and not stat.S_ISDIR(os.lstat(below).st_mode)
            os.mkdir(target, 0o700)
            if _compare(path, None if replaced else below, target):
                if replaced:
                    os.setxattr(target, OVERLAY_OPAQUE, b"y")
                changed = True
            else:
                os.rmdir(target)
        elif below is None or _attributes(path) != _attributes(below):
            os.link(path, target, follow_symlinks=False)
            changed = True
    if lower is not None:
        for name in sorted(set(os.listdir(lower)) - names):
            os.mknod(f"{place}/{name}", stat.S_IFCHR, 0)
            changed = True
    copy_attributes(tree, place, os.lstat(tree))
    return changed


def _attributes(path: str) -> tuple[object, ...]:
    info = os.lstat(path)
    xattrs = {
        key: os.getxattr(path, key, follow_symlinks=False)
        for key in os.listxattr(path, follow_symlinks=False)
    }
    kind = stat.S_IFMT(info.st_mode)
    link = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
    size = info.st_size if stat.S_ISREG(info.st_mode) else 0
    time = 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns
    changed = (kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_rdev)
    return (*changed, size, time, link, xattrs)
