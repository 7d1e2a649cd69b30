"""Where this host has its control group hierarchies mounted."""

from __future__ import annotations

import os
from typing import NamedTuple

from sampan.linux import files
from sampan.linux.mount import new_filesystem

_CONTROLLERS = frozenset(
    [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "blkio",
        "devices",
        "freezer",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
        "rdma",
        "misc",
    ]
)


class Layout(NamedTuple):
    """``points`` maps each version 1 controller (and ``name=systemd``) to its mount point."""

    version: int
    points: dict[str, str]
    unified: str
    """The version 2 mount point, or empty."""


def find_layout(mountinfo: bytes | None = None) -> Layout:
    """Read the mounts of the calling process.  Raises OSError if there is no hierarchy."""
    if mountinfo is None:
        mountinfo = files.read("/proc/self/mountinfo")
    points: dict[str, str] = {}
    unified = ""
    for line in mountinfo.decode(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(kind) < 3 or fields[3] != "/":
            continue
        if kind[0] == "cgroup2":
            unified = unified or fields[4]
        elif kind[0] == "cgroup":
            for option in kind[2].split(","):
                if option in _CONTROLLERS or option == "name=systemd":
                    points.setdefault(option, fields[4])
    if any(name in _CONTROLLERS for name in points):
        return Layout(1, points, unified)
    if unified:
        return Layout(2, {}, unified)
    raise FileNotFoundError(2, "no control group hierarchy is mounted (/sys/fs/cgroup)")


def hold_fast_moves() -> int | None:
    """Keep moving processes between groups fast for as long as the descriptor is open.

    Usually the first move after a pause waits for an RCU grace period (5 to 20 ms).  The kernel's
    ``favordynmods`` option avoids that for the whole host while any hierarchy with it exists; this
    is a detached mount of a named one without controllers.  None if the kernel has no such option
    (Linux < 6.0, or none of version 1).
    """
    try:
        return new_filesystem(
            "cgroup", "cgroup", ["none", f"name=sampan-{os.getpid()}", "favordynmods"]
        )
    except OSError:
        return None
