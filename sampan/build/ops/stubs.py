"""Mount points that running a command makes in its tree: empty, and not to be in the image.

Most are never made: those that every command has lie in a layer of their own, below all others.
Where the tree has no layers they are made here, so that their making leaves no trace.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sampan.build.ops.tree import mounted
from sampan.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from sampan.runtime.types import Mount
from sampan.store.overlay import escape
from sampan.store.snapshots import Snapshotter

_MAX_KNOWN = 512
_DIRECTORIES = ("dev", "etc", "proc", "sys")
_FILES = ("etc/hosts", "etc/resolv.conf")
_ETC = "etc"
_LAYERS = "lowerdir="


class Times(NamedTuple):
    """When ``/etc`` was changed (ns): before files were made in it to be mounted on, and then."""

    before: int
    furnished: int


class Stubs:
    """Keeps the stubs of commands, of all builds, out of what they make.

    ``layer`` is a directory for those that every command has.  What was missing in a snapshot is
    remembered for the command that runs on it next, since a look into a snapshot needs a mount.
    """

    def __init__(self, snapshots: Snapshotter, layer: Path) -> None:
        self._snapshots = snapshots
        self._layer = layer
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        for name in _DIRECTORIES:
            (layer / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in _FILES:
            (layer / name).touch(mode=0o644)

    def furnish(self, mounts: Sequence[Mount], writable: Path) -> tuple[list[Mount], Times | None]:
        """The mounts of a command's root with the usual mount points below everything else.

        If there is no overlay, they are made in the ``writable`` tree; what is returned besides is
        for :meth:`clean` then."""
        *others, top = mounts
        if top.type != "overlay":
            return list(mounts), _make_files(writable)
        options = [
            f"{option}:{escape(str(self._layer))}" if option.startswith(_LAYERS) else option
            for option in top.options
        ]
        return [*others, Mount(top.type, top.source, options)], None

    def clean(
        self,
        writable: Path,
        parent: str | None,
        name: str,
        points: Sequence[str],
        aside: Path | None = None,
        times: Times | None = None,
    ) -> None:
        """Remove from what a command has written over ``parent`` what was made only to be mounted
        on; the result will be the snapshot ``name``.  Directories are moved ``aside``, into one on
        the same file system that is removed later: removing them may wait for the disk."""
        root = os.open(writable, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            untouched = times is not None and _changed(root) == times.furnished
            made = _stubs(root, points)
            missing = self._missing_in(parent, points) if made else frozenset()
            for point in sorted(made, key=len, reverse=True):
                if point in missing:
                    _remove(root, point, aside)
            if made:
                left = (point for point in missing if _status(root, point) is None)
                self._remember(name, points, left)
            if times is not None and untouched:
                _set_changed(root, times.before)
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


def _make_files(tree: Path) -> Times | None:
    """Make the missing files in ``/etc``, if that is a directory."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = _changed(root)
        if before is None:
            return None
        for path in _FILES:
            with suppress(OSError):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(openat2(root, path, flags, 0o644, resolve=_PLAIN))
        return Times(before, _changed(root) or before)
    finally:
        os.close(root)


def _changed(root: int) -> int | None:
    info = _status(root, _ETC)
    return info.st_mtime_ns if info is not None and stat.S_ISDIR(info.st_mode) else None


def _set_changed(root: int, at: int) -> None:
    with suppress(OSError):
        fd = openat2(root, _ETC, os.O_RDONLY | os.O_DIRECTORY, resolve=_PLAIN)
        try:
            os.utime(fd, ns=(at, at))
        finally:
            os.close(fd)


def _stubs(root: int, points: Sequence[str]) -> list[str]:
    """Those of the points (sorted) that may be stubs."""
    found = []
    absent = "//"
    for point in points:
        if point.startswith(absent):
            continue
        info = _top(root, point) if point.rfind("/") == 0 else _status(root, point)
        if info is None:
            absent = point + "/"
        elif stat.S_ISDIR(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_size == 0):
            found.append(point)
    return found


def _top(root: int, point: str) -> os.stat_result | None:
    try:
        return os.stat(point[1:], dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return None


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
