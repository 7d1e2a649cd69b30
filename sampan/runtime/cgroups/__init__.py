"""Control groups of containers, version 1 and version 2 by the same interface.

A container's *group* is named by the specification's ``cgroupsPath`` (``/sampan/<id>``), one
directory in version 2 and one a controller in version 1.  A path of three parts with colons between
(``system.slice:sampan:<id>``) names one that systemd makes, see
:mod:`sampan.runtime.cgroups.systemd`.
"""

from __future__ import annotations

from sampan.runtime.cgroups.layout import Layout, find_layout, hold_fast_moves
from sampan.runtime.cgroups.types import BlkioEntry, Group, OomWatch, Stats

__all__ = [
    "BlkioEntry",
    "Group",
    "Layout",
    "OomWatch",
    "Stats",
    "adopt_watch",
    "find_layout",
    "group",
    "hold_fast_moves",
    "layout",
    "version",
]

_layout: Layout | None = None


def layout() -> Layout:
    """What this host has mounted, looked up once; with it comes the code for its version, so who
    does so before forking has both."""
    global _layout
    if _layout is None:
        _layout = find_layout()
        __import__(f"{__name__}.v{_layout.version}")
    return _layout


def group(cgroups_path: str) -> Group:
    """The group of that path in the version that the host has mounted.

    Raises ValueError for a path that leaves the hierarchy, OSError if the host has no hierarchy.
    """
    if cgroups_path.count(":") == 2:
        # Where systemd makes the groups, the daemon has it imported before the first fork.
        from sampan.runtime.cgroups.systemd import GroupSystemd

        return GroupSystemd(cgroups_path, group)
    parts = [part for part in cgroups_path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ValueError(f"cgroups path {cgroups_path!r} does not name a group")
    path = "/" + "/".join(parts)
    found = layout()
    if found.version == 2:
        from sampan.runtime.cgroups.v2 import GroupV2

        return GroupV2(found, path)
    from sampan.runtime.cgroups.v1 import GroupV1

    return GroupV1(found, path)


def adopt_watch(fd: int) -> OomWatch:
    """The watch whose descriptor another process has opened by ``Group.watch_oom``."""
    if layout().version == 2:
        from sampan.runtime.cgroups.v2 import MemoryEvents

        return MemoryEvents(fd)
    from sampan.runtime.cgroups.v1 import EventFdWatch

    return EventFdWatch(fd)


def version() -> int:
    """1 or 2: which version holds the controllers on this host (hybrid counts as 1)."""
    return layout().version
