"""A container: the record that is stored, and the live object that the daemon holds for it.

The record is what must outlive the daemon.  What runs now is known by the container's keeper; the
record's ``state`` repeats it, so that inspect and list never wait for anybody.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Literal

from msgspec import Struct, field

from sampan.engine.mounts import ContainerMount
from sampan.engine.types import (
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    PortBinding,
)
from sampan.errors import Conflict
from sampan.runtime.control import Keeper
from sampan.runtime.types import AttachRequest, Health

Status = Literal["created", "running", "paused", "restarting", "exited", "removing", "dead"]


class State(Struct):
    """Docker's ``State``; times in nanoseconds since the epoch, 0 for never."""

    status: Status = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0
    restart_count: int = 0
    manually_stopped: bool = False
    health: Health | None = None

    @property
    def running(self) -> bool:
        """Whether Docker would call it running: paused and restarting count too."""
        return self.status in ("running", "paused", "restarting")


class ContainerRecord(Struct):
    """A container as it is stored.

    ``name`` has no leading slash; ``image_id`` is the image's digest (``config.image`` what the
    user wrote); ``parent`` the committed snapshot below the container's own, whose key is the
    container's id; ``networks`` maps a network's name to the endpoint's wishes and results;
    ``macs`` the MAC addresses that were asked for, by network;
    ``ports`` are the bindings in force, with the host ports that were chosen.
    """

    id: str
    name: str
    created: int
    image_id: str
    parent: str | None
    config: ContainerConfig
    host: HostConfig
    driver: str = "overlay2"
    platform: str = "linux"
    networks: dict[str, EndpointSettings] = field(default_factory=dict)
    mounts: list[ContainerMount] = field(default_factory=list)
    macs: dict[str, str] = field(default_factory=dict)
    ports: dict[str, list[PortBinding] | None] = field(default_factory=dict)
    state: State = field(default_factory=State)

    @property
    def command(self) -> list[str]:
        """The whole argument vector of the container's process."""
        return [*(self.config.entrypoint or []), *(self.config.cmd or [])]

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}


class Container:
    """A container that the daemon holds: its record, its keeper while it runs, who waits for it.

    ``lock`` serialises the operations that change the container's state.  ``parked`` holds clients
    that attached before the start: their request and the socket's descriptor, owned by this list.
    """

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.keeper: Keeper | None = None
        self.lock = asyncio.Lock()
        self.removed = asyncio.Event()
        self.parked: list[tuple[AttachRequest, int]] = []
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def running(self) -> bool:
        return self.record.state.running

    @property
    def pid(self) -> int:
        """The first process's number on the host, 0 if there is none."""
        return self.record.state.pid

    def live_keeper(self) -> Keeper:
        """The keeper of a running container.

        :raises Conflict: the container does not run.
        """
        if self.keeper is None:
            raise Conflict(f"container {self.id} is not running")
        return self.keeper

    def next_exit(self) -> asyncio.Future[None]:
        """A future that is done when the process ends next, or the container is removed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        future.add_done_callback(self._waiters.discard)
        return future

    def announce_exit(self) -> None:
        """Wake everybody who waits for an exit."""
        for future in list(self._waiters):
            if not future.done():
                future.set_result(None)

    def drop_parked(self) -> None:
        """Close the connections of clients that wait for a start."""
        for _, fd in self.parked:
            os.close(fd)
        self.parked.clear()


def now() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()
