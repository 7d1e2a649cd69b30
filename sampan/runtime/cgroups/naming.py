"""How the groups of containers are named: by the driver that makes them, below a parent."""

from __future__ import annotations

from typing import NamedTuple

from sampan.runtime.cgroups.systemd import DEFAULT_SLICE, slice_path

CGROUPFS, SYSTEMD = "cgroupfs", "systemd"
DRIVERS = (CGROUPFS, SYSTEMD)
_DEFAULTS = {CGROUPFS: "/sampan", SYSTEMD: DEFAULT_SLICE}
_PREFIX = "sampan"


class GroupNames(NamedTuple):
    """``driver`` is one of :data:`DRIVERS`; ``parent`` a path, or for systemd a slice; empty for
    the driver's default (``/sampan``, ``system.slice``)."""

    driver: str = CGROUPFS
    parent: str = ""

    @property
    def modules(self) -> tuple[str, ...]:
        """What the driver wants imported before processes are forked that use it."""
        return ("sampan.runtime.cgroups.systemd",) if self.driver == SYSTEMD else ()

    def check(self, parent: str) -> None:
        """Raises ValueError for what cannot be a parent, in Docker's words where it has any."""
        if self.driver == SYSTEMD and parent:
            if not parent.endswith(".slice") or parent == ".slice":
                raise ValueError(
                    'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"'
                )
            slice_path(parent)
        elif ".." in parent.split("/"):
            raise ValueError(f"invalid cgroup-parent {parent!r}: it leaves the hierarchy")

    def path(self, identity: str, parent: str = "") -> str:
        """The ``cgroupsPath`` of a container, below another ``parent`` than the default."""
        parent = parent or self.parent or _DEFAULTS[self.driver]
        if self.driver == SYSTEMD:
            return f"{parent}:{_PREFIX}:{identity}"
        return f"{parent.rstrip('/')}/{identity}"


PLAIN = GroupNames()
"""What holds where nothing is said."""
