"""What a container's first process makes before it knows its container.

Most containers have the same ``/proc``, ``/dev`` and ``/sys``.  A process that was forked ahead
(:class:`~sampan.runtime.launch.Spare`) makes its namespaces and these mounts while it waits for
its plan, and moves them into the container's root then, if the specification asks for just these.

It waits in a mount namespace whose root is an empty file system of its own.  Nothing of the host
is there: no mount of the host is kept alive by a process that waits, and none is seen as it was
when the wait began.  What is the host's (the layers of the root, what is bound) is opened in the
host's mount namespace, which is entered for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sampan.linux import mount as mounts
from sampan.linux import namespaces
from sampan.runtime import cgroups
from sampan.runtime.rootfs import GroupPlaces, MountError, RootFs
from sampan.runtime.spec import MASKED_PATHS, READ_ONLY_PATHS, default_mounts
from sampan.runtime.types import Mount

NAMESPACES = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
"""The new namespaces of a process on a stage, besides the process-number one and perhaps the
network's."""
ROOT = "/root"
"""Where the container's root is attached."""

_OWN = os.O_RDONLY | os.O_CLOEXEC
_MOUNTS = {
    entry["destination"]: entry
    for entry in default_mounts(64 << 20)
    if entry["type"] not in ("cgroup", "cgroup2")
}
_ALL = frozenset(_MOUNTS)
_MASKED, _READ_ONLY = list(MASKED_PATHS), list(READ_ONLY_PATHS)


def _wants(spec: dict[str, Any]) -> bool:
    """Whether this is a specification with the mounts of a stage."""
    linux = spec.get("linux") or {}
    wanted = [entry for entry in spec.get("mounts") or () if entry["destination"] in _ALL]
    return (
        len(wanted) == len(_ALL)
        and all(entry == _MOUNTS[entry["destination"]] for entry in wanted)
        and linux.get("maskedPaths") == _MASKED
        and linux.get("readonlyPaths") == _READ_ONLY
    )


class Stage:
    """The namespaces and the mounts of the calling process, which is alone in its thread."""

    def __init__(self, own_network: bool) -> None:
        """Make the namespaces and enter the stage.  Raises OSError."""
        self._network = namespaces.CLONE_NEWNET if own_network else 0
        self._host = os.open("/proc/self/ns/mnt", _OWN)
        self._host_network = os.open("/proc/self/ns/net", _OWN)
        namespaces.unshare(NAMESPACES | self._network)
        self._own = os.open("/proc/self/ns/mnt", _OWN)
        # Any directory that every host has will do: the host's tree is left in a moment.
        root = RootFs([Mount("tmpfs", "stage", ["mode=755"])], "/proc", "", bind_devices=False)
        os.mkdir(ROOT[1:], 0o700, dir_fd=root.fd)
        self._ready = True
        self.groups: GroupPlaces | None = None
        """Where version 1 of the control groups can be shown."""
        try:
            if points := cgroups.layout().points:
                self.groups = GroupPlaces(dict.fromkeys(points.values()))
            for destination, entry in _MOUNTS.items():
                if own_network or destination != "/sys":
                    root.add(entry)
            root.add_default_devices()
            root.make_read_only(_READ_ONLY)
            root.mask(_MASKED)
        except OSError:
            # Each container will be told of it by its own attempt.
            self._ready = False
        self._root = root
        root.pivot()

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Be in the host's mount namespace for a while, at its root."""
        namespaces.setns(self._host, namespaces.CLONE_NEWNS)
        try:
            yield
        finally:
            namespaces.setns(self._own, namespaces.CLONE_NEWNS)

    def make_network(self) -> None:
        """Have a network namespace of its own, if there is none yet."""
        if not self._network:
            namespaces.unshare(namespaces.CLONE_NEWNET)

    def use_host_network(self) -> None:
        """Give the network namespace up for the host's."""
        namespaces.setns(self._host_network, namespaces.CLONE_NEWNET)

    def furnish(self, root: RootFs, spec: dict[str, Any], own_network: bool) -> frozenset[str]:
        """Move the mounts made here into a container's root, if they are what ``spec`` asks for.

        Returns their destinations; what is below these is hidden and read-only as the
        specification wants.  What shows a network namespace is of the one it was made in, so
        ``/sys`` is moved only with ``own_network``, and if it was expected.
        """
        own_network = own_network and bool(self._network)
        if not (self._ready and _wants(spec)):
            return frozenset()
        ready = self._root
        moved = {"/proc": ready.proc, "/dev": ready.dev}
        if own_network:
            moved["/sys"] = ready.sys
        try:
            targets = [root.directory_of(destination) for destination in moved]
        except MountError:
            return frozenset()  # a link, say: what that means is known where each mount is made
        # Settings are written to a view without what is read-only or hidden.
        root.proc = mounts.open_tree(ready.proc, "")
        root.dev, root.pts = ready.dev, ready.pts
        for fd, target in zip(moved.values(), targets, strict=True):
            mounts.move_mount(fd, target)
            os.close(target)
        os.close(ready.proc)
        return _ALL if own_network else _ALL - {"/sys"}

    def leave(self) -> None:
        """Close what leads to the host."""
        os.close(self._host)
        os.close(self._host_network)
