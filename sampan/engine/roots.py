"""Containers' root file systems from outside, as directory descriptors.

A stopped container's is a detached mount, which no path leads to and which ends with its
descriptor; a running one's is what its process sees, volumes included.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.engine.state import Container
from sampan.linux import mount
from sampan.store.snapshots import Snapshotter


class Roots:
    """Opens root file systems.  Everything below must be resolved by openat2 in the root."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    @contextmanager
    def snapshot(self, key: str) -> Iterator[int]:
        """The root of a snapshot (a container's own, or a committed one, read-only)."""
        fd = mount.stacked(self._snapshotter.mounts(key))
        try:
            directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield directory
            finally:
                os.close(directory)
        finally:
            os.close(fd)

    @contextmanager
    def container(self, container: Container) -> Iterator[int]:
        """The root of a container, as its process sees it if it runs."""
        if not container.pid:
            with self.snapshot(container.id) as directory:
                yield directory
            return
        path = f"/proc/{container.pid}/root"
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)
