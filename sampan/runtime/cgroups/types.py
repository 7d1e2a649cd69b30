"""The interface of a container's control group, and its statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol


class BlkioEntry(NamedTuple):
    """A counter of one device: ``op`` is Docker's (``Read``, ``Write``, ``Total`` …)."""

    major: int
    minor: int
    op: str
    value: int


class Stats:
    """One sample; Docker's fields.  Times in nanoseconds, sizes in bytes."""

    def __init__(self, read_at: int) -> None:
        self.read_at = read_at
        self.cpu_total = 0
        self.cpu_user = 0
        self.cpu_kernel = 0
        self.cpu_per: list[int] = []
        self.throttled_periods = 0
        self.throttled_count = 0
        self.throttled_time = 0
        self.memory_usage = 0
        self.memory_max_usage = 0
        self.memory_limit = 0
        self.memory_failcnt = 0
        self.memory_stats: dict[str, int] = {}
        self.blkio_bytes: list[BlkioEntry] = []
        self.blkio_ops: list[BlkioEntry] = []
        self.pids = 0
        self.pids_limit = 0


class OomWatch(Protocol):
    """A descriptor to poll; ``read`` consumes the event and says whether a kill has happened."""

    fd: int
    urgent: bool
    """Whether the event is reported as EPOLLPRI rather than EPOLLIN."""
    certain: bool
    """Whether ``read`` knows of a kill, rather than of something that the group's count tells."""

    def read(self) -> bool: ...

    def close(self) -> None: ...


class Group(Protocol):
    """A container's control group."""

    path: str

    def create(self, resources: dict[str, Any]) -> list[str]:
        """Make the group with OCI ``linux.resources``; return warnings of what is not possible.

        Raises OSError with the file and the value that the kernel refused.
        """
        ...

    def add(self, pid: int) -> None:
        """Move a process into the group."""
        ...

    def update(self, resources: dict[str, Any]) -> None:
        """Apply what is given of OCI ``linux.resources`` to the running group."""
        ...

    def freeze(self) -> None:
        """Stop every process of the group; returns when all have stopped."""
        ...

    def thaw(self) -> None:
        """Let them run again."""
        ...

    def hasten(self) -> None:
        """Limit the processor time no more: what is to end shall not wait for the time to end in.

        Nothing happens where that is not possible.
        """
        ...

    def stats(self) -> Stats: ...

    def pids(self) -> list[int]:
        """The processes of the group and of the groups below it."""
        ...

    def oom_kills(self) -> int:
        """How many processes were killed for want of memory."""
        ...

    def watch_oom(self) -> OomWatch | None:
        """Watch for such kills; None if the host cannot tell."""
        ...

    def mount_points(self) -> dict[str, str]:
        """For version 1, each hierarchy's mount point and the group's path in it; else empty."""
        ...

    def delete(self) -> None:
        """Remove the group and those below it; what still runs in it is killed.

        A group that does not exist is no error.
        """
        ...


Warn = Callable[[str], None]
