"""Control groups of containers, version 1 and version 2 by the same interface.

A container's *group* is named by the specification's ``cgroupsPath`` (``/sampan/<id>``), one
directory in version 2 and one a controller in version 1.
"""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct, field


class BlkioEntry(Struct):
    major: int
    minor: int
    op: str
    value: int


class Stats(Struct):
    """One sample; Docker's fields.  Times in nanoseconds, sizes in bytes."""

    read_at: int
    cpu_total: int = 0
    cpu_user: int = 0
    cpu_kernel: int = 0
    cpu_per: list[int] = field(default_factory=list)
    throttled_periods: int = 0
    throttled_count: int = 0
    throttled_time: int = 0
    memory_usage: int = 0
    memory_max_usage: int = 0
    memory_limit: int = 0
    memory_failcnt: int = 0
    memory_stats: dict[str, int] = field(default_factory=dict)
    blkio_bytes: list[BlkioEntry] = field(default_factory=list)
    blkio_ops: list[BlkioEntry] = field(default_factory=list)
    pids: int = 0
    pids_limit: int = 0


class Group(Protocol):
    """A container's control group."""

    def create(self, resources: dict[str, Any]) -> list[str]:
        """Make the group with OCI ``linux.resources``; return warnings of what is not possible."""
        ...

    def join(self) -> None:
        """Move the calling process into the group."""
        ...

    def update(self, resources: dict[str, Any]) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def stats(self) -> Stats: ...

    def pids(self) -> list[int]: ...

    def oom_count(self) -> int: ...

    def delete(self) -> None: ...


def group(cgroups_path: str) -> Group:
    """The group of that path in the version that the host has mounted."""
    raise NotImplementedError


def version() -> int:
    """1 or 2: which version holds the controllers on this host (hybrid counts as 1)."""
    raise NotImplementedError
