"""Mount points that running a command made in its tree: empty, and not to be in the image."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sampan.build.ops.tree import mounted
from sampan.image.layer import is_opaque, xattrs_of
from sampan.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sampan.store.snapshots import Snapshotter

# Mode, owner and attributes of a directory; None of what is missing or something else.
_Signs = Mapping[str, tuple[object, ...] | None]


class Stubs:
    """Removes the stubs of one build's commands.

    What a snapshot has at the points is remembered for the command that runs on it next, since a
    look into a snapshot needs a mount.
    """

    def __init__(self, snapshots: Snapshotter) -> None:
        self._snapshots = snapshots
        self._known: dict[str, tuple[frozenset[str], _Signs]] = {}

    def clean(
        self, writable: Path, parent: str | None, name: str, points: Sequence[str], *, whole: bool
    ) -> None:
        """Remove from what a command has written over ``parent`` what was made only to be mounted
        on; the result will be the snapshot ``name``.  ``whole`` says that ``writable`` is all of
        the tree, not the changes alone: of these, directories go as well that are there only
        because a stub was made in them."""
        root = os.open(writable, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            made = [point for point in points if _is_stub(root, point)]
            before = self._before(parent, points) if made else {}
            after = dict(before)
            for point in sorted(made, key=len, reverse=True):
                if point not in before:
                    _remove(root, point)
                    continue
                signs = _signs(root, point)
                if signs is None or whole:
                    continue
                if signs == before[point] and _remove(root, point):
                    continue
                after[point] = signs
            if made:
                for point in points:
                    if point not in after and _status(root, point) is not None:
                        after[point] = _signs(root, point)
                self._known[name] = frozenset(points), after
        finally:
            os.close(root)

    def _before(self, parent: str | None, points: Sequence[str]) -> _Signs:
        """Those of the points that the snapshot has."""
        if parent is None:
            return {}
        asked, known = self._known.get(parent, (frozenset(), {}))
        if asked.issuperset(points):
            return known
        found = {}
        with mounted(self._snapshots.mounts(parent)) as tree:
            for point in points:
                try:
                    fd = tree.open(point, os.O_PATH | os.O_NOFOLLOW)
                except OSError:
                    continue
                try:
                    found[point] = _signs_of(fd)
                finally:
                    os.close(fd)
        return found


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


def _signs(root: int, point: str) -> tuple[object, ...] | None:
    """What tells a directory from a changed one; None of what is none, or hides what is below."""
    try:
        fd = openat2(root, point.lstrip("/"), os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN)
    except OSError:
        return None
    try:
        return _signs_of(fd)
    finally:
        os.close(fd)


def _signs_of(fd: int) -> tuple[object, ...] | None:
    info = os.fstat(fd)
    if not stat.S_ISDIR(info.st_mode):
        return None
    place = f"/proc/self/fd/{fd}/."
    if is_opaque(place):
        return None
    return info.st_mode, info.st_uid, info.st_gid, xattrs_of(place.encode())


def _is_stub(root: int, point: str) -> bool:
    info = _status(root, point)
    if info is None:
        return False
    return stat.S_ISDIR(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_size == 0)


def _remove(root: int, point: str) -> bool:
    above, _, name = point.strip("/").rpartition("/")
    try:
        parent = openat2(root, above or ".", os.O_PATH | os.O_DIRECTORY, resolve=_PLAIN)
    except OSError:
        return False
    try:
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=parent)
    except OSError:
        return False  # it is not empty, and so no stub
    else:
        return True
    finally:
        os.close(parent)


def mount_points(spec: Mapping[str, Any]) -> list[str]:
    """The destinations of a specification's mounts with their parents."""
    points: set[str] = {"/dev/console"}
    for mount in spec["mounts"]:
        path = mount["destination"].rstrip("/")
        while path and path != "/":
            points.add(path)
            path = path.rpartition("/")[0]
    return sorted(points)
