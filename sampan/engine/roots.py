"""Containers' root file systems from outside, as directory descriptors.

Of a running container it is what its first process sees, volumes included.  Of a stopped one it is
a detached mount of its snapshot, with its volumes on their places, that no path leads to and that
ends with its descriptor: a killed daemon leaves no mount behind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sampan.engine.mounts import ContainerMount
from sampan.engine.state import Container
from sampan.errors import Conflict
from sampan.linux import mount as kernel
from sampan.linux.openat2 import make_directories, make_file
from sampan.store.snapshots import Snapshotter

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Roots:
    """Opens root file systems.  Everything below must be resolved by openat2 in the root.

    Calls block for about a millisecond.
    """

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    @contextmanager
    def snapshot(self, key: str) -> Iterator[int]:
        """The root of a snapshot (a container's own, or a committed one, read-only)."""
        with self._opened(key, ()) as directory:
            yield directory

    @contextmanager
    def container(self, container: Container) -> Iterator[int]:
        """The root of a container, with its volumes.  Raises Conflict when it is just ending."""
        if not (container.running and container.pid):
            with self._opened(container.id, container.record.mounts) as directory:
                yield directory
            return
        directory = _live_root(container)
        try:
            yield directory
        finally:
            os.close(directory)

    @contextmanager
    def _opened(self, key: str, mounts: Iterable[ContainerMount]) -> Iterator[int]:
        fd = kernel.stacked(self._snapshotter.mounts(key))
        try:
            _mount_all(fd, mounts)
            directory = os.open(".", _DIRECTORY, dir_fd=fd)
            try:
                yield directory
            finally:
                os.close(directory)
        finally:
            os.close(fd)


def _live_root(container: Container) -> int:
    pid = container.pid
    try:
        root = os.open(f"/proc/{pid}/root", _DIRECTORY)
    except OSError as error:
        raise Conflict(f"container {container.id} is not running any more") from error
    if container.pid != pid or not container.running:
        # The process number may be another's by now.
        os.close(root)
        raise Conflict(f"container {container.id} is not running any more")
    return root


def _mount_all(root: int, mounts: Iterable[ContainerMount]) -> None:
    """Put the container's binds and volumes on their places in a detached tree.

    Linux before 6.15 cannot mount into a detached tree; there the places are seen as they are
    below the mounts.
    """
    for mount in sorted(mounts, key=lambda mount: mount.destination.count("/")):
        if mount.point.type not in ("bind", "volume") or mount.subpath:
            continue
        try:
            source = kernel.open_tree(-1, mount.point.source, recursive=True)
        except OSError:
            continue  # the source is gone: a start would fail, a copy need not
        try:
            if not mount.point.rw:
                kernel.mount_setattr(source, set=kernel.MOUNT_ATTR_RDONLY, recursive=True)
            make = make_directories if stat.S_ISDIR(os.fstat(source).st_mode) else make_file
            place = make(root, mount.destination)
            try:
                kernel.move_mount(source, place)
            finally:
                os.close(place)
        except OSError:
            continue
        finally:
            os.close(source)
