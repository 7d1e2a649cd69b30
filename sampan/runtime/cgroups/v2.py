"""Version 2: one directory, controllers enabled from the root down, devices by eBPF."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

from sampan.linux import files
from sampan.runtime.cgroups import devices
from sampan.runtime.cgroups.layout import Layout
from sampan.runtime.cgroups.stats import read_stats_v2
from sampan.runtime.cgroups.types import OomWatch, Stats
from sampan.runtime.cgroups.walk import below, remove_tree

_WANTED = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb")
_WAIT = 2.0
_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)


class MemoryEvents:
    """``memory.events`` is polled for EPOLLPRI; its ``oom_kill`` counter tells."""

    urgent = certain = True

    def __init__(self, fd: int) -> None:
        """``fd`` is the open ``memory.events``."""
        self.fd = fd
        self._count = self._read_count()

    @classmethod
    def open(cls, directory: str) -> MemoryEvents:
        return cls(os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC))

    def _read_count(self) -> int:
        try:
            events = os.pread(self.fd, 4096, 0)
        except OSError:
            return 0  # systemd has removed the group, as soon as its last process had ended
        for line in events.splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def read(self) -> bool:
        before, self._count = self._count, self._read_count()
        return self._count > before

    def close(self) -> None:
        os.close(self.fd)


class GroupV2:
    """A container's group in the unified hierarchy."""

    def __init__(self, layout: Layout, path: str) -> None:
        self.path = path
        self._root = layout.unified
        self._directory = layout.unified + path

    def create(self, resources: dict[str, Any]) -> list[str]:
        directory = self._root
        *parents, last = self.path.strip("/").split("/")
        self._enable(directory)
        for part in parents:
            directory = f"{directory}/{part}"
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                pass
            self._enable(directory)
        try:
            os.mkdir(f"{directory}/{last}", 0o755)
        except FileExistsError:
            pass
        warnings: list[str] = []
        try:
            self._apply(resources, warnings)
            rules = resources.get("devices") or ()
            if rules:
                devices.attach(self._directory, rules)
        except BaseException:
            self.delete()
            raise
        return warnings

    def _enable(self, directory: str) -> None:
        """Make the controllers available below ``directory``; missing ones fail when used."""
        available = files.read(f"{directory}/cgroup.controllers").split()
        enabled = files.read(f"{directory}/cgroup.subtree_control").split()
        for name in _WANTED:
            if name.encode() in available and name.encode() not in enabled:
                try:
                    files.write(f"{directory}/cgroup.subtree_control", f"+{name}")
                except OSError:
                    continue

    def add(self, pid: int) -> None:
        files.write(f"{self._directory}/cgroup.procs", str(pid))

    def delete(self) -> None:
        self.hasten()
        try:
            files.write(f"{self._directory}/cgroup.kill", "1")
        except OSError:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        remove_tree(self._directory)

    def pids(self) -> list[int]:
        return below(self._directory)

    def mount_points(self) -> dict[str, str]:
        return {}

    def update(self, resources: dict[str, Any]) -> None:
        self._apply(resources, [])

    def _write(self, name: str, value: object) -> None:
        files.write(f"{self._directory}/{name}", str(value))

    def _apply(self, resources: dict[str, Any], warnings: list[str]) -> None:
        self._memory(resources.get("memory") or {}, warnings)
        self._cpu(resources.get("cpu") or {})
        pids = (resources.get("pids") or {}).get("limit")
        if pids is not None and pids != 0:
            self._write("pids.max", pids if pids > 0 else "max")
        self._block(resources.get("blockIO") or {}, warnings)
        for limit in resources.get("hugepageLimits") or ():
            self._write(f"hugetlb.{limit['pageSize']}.max", limit["limit"])
        network = resources.get("network") or {}
        if network.get("classID") is not None or network.get("priorities"):
            raise OSError(95, "network class and priorities need control groups version 1")
        for name, value in (resources.get("unified") or {}).items():
            if "/" in name:
                raise OSError(22, f"unified resource {name!r} is not a file name")
            self._write(name, value)

    def _memory(self, memory: dict[str, Any], warnings: list[str]) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        if swap:
            # The specification counts memory and swap together, version 2 swap alone.
            if swap > 0 and limit and limit > 0:
                if swap < limit:
                    raise OSError(22, "memory+swap limit should be larger than the memory limit")
                own: object = swap - limit
            else:
                own = "max" if swap < 0 else swap
            try:
                self._write("memory.swap.max", own)
            except FileNotFoundError:
                if swap > 0:
                    warnings.append("swap is not limited: the host does not account for it")
        if limit:
            self._write("memory.max", limit if limit > 0 else "max")
        if memory.get("reservation"):
            low = memory["reservation"]
            self._write("memory.low", low if low > 0 else "max")
        if memory.get("swappiness") is not None:
            warnings.append("memory swappiness is not set: version 2 has none")
        if memory.get("disableOOMKiller"):
            warnings.append("the out-of-memory killer stays on: version 2 cannot turn it off")

    def _cpu(self, cpu: dict[str, Any]) -> None:
        if cpu.get("shares"):
            self._write("cpu.weight", weight_of_shares(cpu["shares"]))
        quota, period = cpu.get("quota"), cpu.get("period")
        if quota or period:
            if quota and quota > 0:
                self._write("cpu.max", f"{quota} {period or 100000}")
            else:
                self._write("cpu.max", f"max {period or 100000}")
        if cpu.get("burst") is not None:
            self._write("cpu.max.burst", cpu["burst"])
        if cpu.get("idle") is not None:
            self._write("cpu.idle", cpu["idle"])
        if cpu.get("realtimePeriod") or cpu.get("realtimeRuntime"):
            raise OSError(95, "realtime CPU limits need control groups version 1")
        if cpu.get("cpus"):
            self._write("cpuset.cpus", cpu["cpus"])
        if cpu.get("mems"):
            self._write("cpuset.mems", cpu["mems"])

    def _block(self, block: dict[str, Any], warnings: list[str]) -> None:
        if block.get("weight"):
            self._weight("default", block["weight"], warnings)
        for device in block.get("weightDevice") or ():
            self._weight(f"{device['major']}:{device['minor']}", device["weight"], warnings)
        for key, name in _THROTTLES:
            for device in block.get(key) or ():
                self._write(
                    "io.max", f"{device['major']}:{device['minor']} {name}={device['rate']}"
                )

    def _weight(self, target: str, weight: int, warnings: list[str]) -> None:
        if os.path.exists(f"{self._directory}/io.bfq.weight"):
            self._write("io.bfq.weight", f"{target} {weight}")
        elif os.path.exists(f"{self._directory}/io.weight"):
            self._write("io.weight", f"{target} {1 + (weight - 10) * 9999 // 990}")
        else:
            warnings.append("block I/O weight is not set: the host's scheduler has none")

    def freeze(self) -> None:
        self._write("cgroup.freeze", 1)
        self._wait_frozen(b"frozen 1")

    def thaw(self) -> None:
        self._write("cgroup.freeze", 0)
        self._wait_frozen(b"frozen 0")

    def _wait_frozen(self, wanted: bytes) -> None:
        fd = os.open(f"{self._directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            deadline = time.monotonic() + _WAIT
            while wanted not in os.pread(fd, 4096, 0):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OSError(16, "the container's processes could not be frozen")
                poll.poll(left * 1000)
        finally:
            os.close(fd)

    def hasten(self) -> None:
        try:
            self._write("cpu.max", "max")
        except OSError:
            pass  # no such controller, or it is gone

    def stats(self) -> Stats:
        return read_stats_v2(self._directory)

    def oom_kills(self) -> int:
        try:
            events = files.read(f"{self._directory}/memory.events")
        except OSError:
            return 0
        for line in events.splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def watch_oom(self) -> OomWatch | None:
        try:
            return MemoryEvents.open(self._directory)
        except OSError:
            return None


def weight_of_shares(shares: int) -> int:
    """Version 1 shares (2 to 262144) as version 2 weight (1 to 10000), as runc converts."""
    if not shares:
        return 0
    return 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142
