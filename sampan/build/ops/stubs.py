"""Mount points that running a command made in its tree: empty, and not to be in the image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sampan.build.ops.tree import mounted
from sampan.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sampan.store.snapshots import Snapshotter

_MAX_KNOWN = 512


class Stubs:
    """Removes the stubs of commands, of all builds.

    What was missing in a snapshot is remembered for the command that runs on it next, since a look
    into a snapshot needs a mount.
    """

    def __init__(self, snapshots: Snapshotter) -> None:
        self._snapshots = snapshots
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}

    def clean(
        self,
        writable: Path,
        parent: str | None,
        name: str,
        points: Sequence[str],
        aside: Path | None = None,
    ) -> None:
        """Remove from what a command has written over ``parent`` what was made only to be mounted
        on; the result will be the snapshot ``name``.  Directories are moved ``aside``, into one on
        the same file system that is removed later: removing them may wait for the disk."""
        root = os.open(writable, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            made = [point for point in points if _is_stub(root, point)]
            missing = self._missing_in(parent, points) if made else frozenset()
            for point in sorted(made, key=len, reverse=True):
                if point in missing:
                    _remove(root, point, aside)
            if made:
                left = (point for point in missing if _status(root, point) is None)
                self._remember(name, points, left)
        finally:
            os.close(root)

    def _missing_in(self, parent: str | None, points: Sequence[str]) -> frozenset[str]:
        """Those of the points that the snapshot does not have."""
        if parent is None:
            return frozenset(points)
        asked, missing = self._known.get(parent, (frozenset(), frozenset()))
        if asked.issuperset(points):
            return missing
        found = set()
        with mounted(self._snapshots.mounts(parent)) as tree:
            for point in points:
                try:
                    os.close(tree.open(point, os.O_PATH | os.O_NOFOLLOW))
                except OSError:
                    found.add(point)
        return self._remember(parent, points, found)

    def _remember(self, name: str, points: Iterable[str], missing: Iterable[str]) -> frozenset[str]:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        known = self._known[name] = frozenset(points), frozenset(missing)
        return known[1]


# The command may have put a link in the place of a directory: none is followed.
_PLAIN = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


def _status(root: int, point: str) -> os.stat_result | None:
    """The status of what is at the point by plain directories; None if there is nothing."""
    try:
        fd = openat2(root, point.lstrip("/"), os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _is_stub(root: int, point: str) -> bool:
    info = _status(root, point)
    if info is None:
        return False
    return stat.S_ISDIR(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_size == 0)


def _remove(root: int, point: str, aside: Path | None) -> None:
    above, _, name = point.strip("/").rpartition("/")
    try:
        parent = openat2(root, above or ".", os.O_PATH | os.O_DIRECTORY, resolve=_PLAIN)
    except OSError:
        return
    try:
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            if aside is None:
                os.rmdir(name, dir_fd=parent)
            elif _is_empty(name, parent):
                os.rename(name, aside / point.strip("/").replace("/", "-"), src_dir_fd=parent)
    except OSError:
        pass  # it is not empty, and so no stub
    finally:
        os.close(parent)


def _is_empty(name: str, parent: int) -> bool:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return not os.listdir(fd)
    finally:
        os.close(fd)


def mount_points(spec: Mapping[str, Any]) -> list[str]:
    """The destinations of a specification's mounts with their parents."""
    points: set[str] = {"/dev/console"}
    for mount in spec["mounts"]:
        path = mount["destination"].rstrip("/")
        while path and path != "/":
            points.add(path)
            path = path.rpartition("/")[0]
    return sorted(points)
