"""The user namespace of a bundle: a new one with mappings, or one by its path.

As in the engine (:mod:`sampan.runtime.userns`) the first process is set up outside of it and enters
it in the end.  Network, IPC and UTS namespaces that are made with it belong to it.  The root file
system is taken as it is: who makes the bundle has its owners mapped already, on disk or by an
id-mapped mount.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from sampan.linux import namespaces
from sampan.linux.namespaces import CLONE_NEWUSER
from sampan.runtime import userns


class Remapped(NamedTuple):
    """The namespace (a descriptor) that the process enters in the end, and its numbers."""

    mapping: userns.Mapping
    user: int


def arrange(
    linux: dict[str, Any], flags: int, fds: list[tuple[str, int]], opened: list[int]
) -> tuple[Remapped | None, int, list[tuple[str, int]]]:
    """Make or look into the namespace: (it, the flags that are left to be made, what is to be
    joined).  New descriptors are added to ``opened``.

    Raises ValueError for mappings that cannot be, OSError for what the kernel refuses.
    """
    joined = next((fd for kind, fd in fds if kind == "user"), -1)
    fds = [(kind, fd) for kind, fd in fds if kind != "user"]
    if joined < 0 and not flags & CLONE_NEWUSER:
        return None, flags, fds
    if joined < 0:
        mapping = userns.of_spec(linux)
        assert mapping is not None
    elif os.fstat(joined).st_ino == os.stat("/proc/self/ns/user").st_ino:
        return None, flags, fds
    else:
        mapping = _of_path(linux, joined)
    kinds = userns.can_be_inside(flags)
    made = userns.make(mapping, kinds, joined)
    opened += made.values()
    user = made.pop("user")
    for kind in kinds:
        flags &= ~namespaces.TYPES[kind][0]
    return Remapped(mapping, user), flags & ~CLONE_NEWUSER, [*made.items(), *fds]


def _of_path(linux: dict[str, Any], user: int) -> userns.Mapping:
    found = userns.of_namespace(user)
    found.uid(0)
    found.gid(0)
    for name, ranges in (("uidMappings", found.uids), ("gidMappings", found.gids)):
        if linux.get(name) and userns.ranges(linux[name]) != ranges:
            raise ValueError(f"linux.{name} is not the mapping of the user namespace at its path")
    return found


def by_path(linux: dict[str, Any]) -> bool:
    """Whether the bundle names a user namespace that there is already."""
    return any(
        entry.get("type") == "user" and entry.get("path") for entry in linux.get("namespaces") or ()
    )


def wanted(linux: dict[str, Any]) -> bool:
    """Whether the bundle has a user namespace at all."""
    return any(entry.get("type") == "user" for entry in linux.get("namespaces") or ())
