"""Version 1: one directory a controller."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from typing import Any

from sampan.linux import files
from sampan.linux.syscalls import error, function
from sampan.runtime.cgroups.layout import Layout
from sampan.runtime.cgroups.stats import read_stats_v1
from sampan.runtime.cgroups.types import OomWatch, Stats
from sampan.runtime.cgroups.walk import below, remove_tree

_FREEZE_ATTEMPTS = 200
_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)

_eventfd = function("eventfd", ctypes.c_uint, ctypes.c_int)
_EFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


class EventFdWatch:
    """Told by the kernel through an eventfd registered at ``memory.oom_control``."""

    urgent = certain = False

    def __init__(self, fd: int) -> None:
        """``fd`` is an eventfd that has been registered."""
        self.fd = fd

    @classmethod
    def open(cls, directory: str) -> EventFdWatch:
        fd = _eventfd(0, _EFD_FLAGS)
        if fd < 0:
            raise error("eventfd")
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(f"{directory}/cgroup.event_control", f"{fd} {control}")
        except OSError:
            os.close(fd)
            raise
        finally:
            os.close(control)
        return cls(fd)

    def read(self) -> bool:
        try:
            return bool(os.read(self.fd, 8))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.fd)


class GroupV1:
    """A container's group in every mounted controller."""

    def __init__(self, layout: Layout, path: str) -> None:
        self.path = path
        self._points = layout.points
        self._directories = {name: point + path for name, point in layout.points.items()}

    # --- life -------------------------------------------------------------------------------

    def create(self, resources: dict[str, Any]) -> list[str]:
        warnings: list[str] = []
        for name, directory in self._directories.items():
            self._make(name, directory)
        try:
            self._apply(resources, warnings)
            self._devices(resources.get("devices") or ())
        except BaseException:
            self.delete()
            raise
        return warnings

    def _make(self, controller: str, directory: str) -> None:
        try:
            os.mkdir(directory, 0o755)
            made = True
        except FileExistsError:
            made = False
        except FileNotFoundError:
            self._make(controller, os.path.dirname(directory))
            self._make(controller, directory)
            return
        if made and controller == "cpuset":
            self._inherit_set(directory)
            if directory != self._directories["cpuset"]:
                files.write(f"{directory}/cgroup.clone_children", "1")

    def _inherit_set(self, directory: str) -> None:
        """An empty set admits no process; inherit the parent's, level by level.  One that another
        process has just made may still be empty."""
        parent = os.path.dirname(directory)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if files.read(f"{directory}/{name}").strip():
                continue
            if not files.read(f"{parent}/{name}").strip() and parent != self._points["cpuset"]:
                self._inherit_set(parent)
            files.write(f"{directory}/{name}", files.read(f"{parent}/{name}").strip())

    def add(self, pid: int) -> None:
        value = str(pid).encode()
        for directory in dict.fromkeys(self._directories.values()):
            files.write(f"{directory}/cgroup.procs", value)

    def delete(self) -> None:
        try:
            os.rmdir(self._listing)
        except OSError:
            self._kill()
        for directory in dict.fromkeys(self._directories.values()):
            remove_tree(directory)

    def _kill(self) -> None:
        """Kill what is left; wait until the group is empty."""
        for attempt in range(_FREEZE_ATTEMPTS):
            pids = self.pids()
            if not pids:
                return
            if not attempt:
                self.hasten()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self._read("freezer", "freezer.state") not in (b"", b"THAWED"):
                self.thaw()
            time.sleep(0.005)

    @property
    def _listing(self) -> str:
        """The directory that tells which processes there are."""
        names = [name for name in ("pids", "freezer", "memory") if name in self._directories]
        return self._directories[[*names, *self._directories][0]]

    def pids(self) -> list[int]:
        return below(self._listing)

    def mount_points(self) -> dict[str, str]:
        return {point: self.path for point in self._points.values()}

    # --- limits -----------------------------------------------------------------------------

    def update(self, resources: dict[str, Any]) -> None:
        self._apply(resources, [])

    def _write(self, controller: str, name: str, value: object) -> None:
        directory = self._directories.get(controller)
        if directory is None:
            raise OSError(95, f"{name} cannot be set: the host has no {controller} controller")
        files.write(f"{directory}/{name}", str(value))

    def _read(self, controller: str, name: str) -> bytes:
        directory = self._directories.get(controller)
        if directory is None:
            return b""
        try:
            return files.read(f"{directory}/{name}").strip()
        except OSError:
            return b""

    def _apply(self, resources: dict[str, Any], warnings: list[str]) -> None:
        self._memory(resources.get("memory") or {}, warnings)
        self._cpu(resources.get("cpu") or {})
        pids = (resources.get("pids") or {}).get("limit")
        if pids is not None and pids != 0:
            self._write("pids", "pids.max", pids if pids > 0 else "max")
        self._block(resources.get("blockIO") or {}, warnings)
        for limit in resources.get("hugepageLimits") or ():
            name = f"hugetlb.{limit['pageSize']}.limit_in_bytes"
            self._write("hugetlb", name, limit["limit"])
        network = resources.get("network") or {}
        if network.get("classID") is not None:
            self._write("net_cls", "net_cls.classid", network["classID"])
        for priority in network.get("priorities") or ():
            value = f"{priority['name']} {priority['priority']}"
            self._write("net_prio", "net_prio.ifpriomap", value)
        if resources.get("unified"):
            raise OSError(95, "unified resources need control groups version 2")

    def _memory(self, memory: dict[str, Any], warnings: list[str]) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        if limit:
            self._memory_limits(limit, swap, warnings)
        elif swap:
            self._write("memory", "memory.memsw.limit_in_bytes", swap)
        if memory.get("reservation"):
            self._write("memory", "memory.soft_limit_in_bytes", memory["reservation"])
        if memory.get("kernelTCP"):
            self._write("memory", "memory.kmem.tcp.limit_in_bytes", memory["kernelTCP"])
        if memory.get("swappiness") is not None:
            self._write("memory", "memory.swappiness", memory["swappiness"])
        if memory.get("disableOOMKiller"):
            self._write("memory", "memory.oom_control", 1)

    def _memory_limits(self, limit: int, swap: int | None, warnings: list[str]) -> None:
        """The kernel keeps memory+swap ≥ memory, so the order depends on the direction."""
        directory = self._directories.get("memory", "")
        has_swap = os.path.exists(f"{directory}/memory.memsw.limit_in_bytes")
        if not has_swap:
            if swap not in (None, 0, -1):
                warnings.append("swap is not limited: the host does not account for it")
            self._write("memory", "memory.limit_in_bytes", limit)
            return
        total = swap if swap else None
        current = int(self._read("memory", "memory.memsw.limit_in_bytes") or 0)
        if total is not None and (total == -1 or total > current):
            self._write("memory", "memory.memsw.limit_in_bytes", total)
            self._write("memory", "memory.limit_in_bytes", limit)
        else:
            self._write("memory", "memory.limit_in_bytes", limit)
            if total is not None:
                self._write("memory", "memory.memsw.limit_in_bytes", total)

    def _cpu(self, cpu: dict[str, Any]) -> None:
        if cpu.get("shares"):
            self._write("cpu", "cpu.shares", cpu["shares"])
        if cpu.get("period"):
            self._write("cpu", "cpu.cfs_period_us", cpu["period"])
        if cpu.get("quota"):
            self._write("cpu", "cpu.cfs_quota_us", cpu["quota"])
        if cpu.get("burst") is not None:
            self._write("cpu", "cpu.cfs_burst_us", cpu["burst"])
        if cpu.get("idle") is not None:
            self._write("cpu", "cpu.idle", cpu["idle"])
        if cpu.get("realtimePeriod"):
            self._write("cpu", "cpu.rt_period_us", cpu["realtimePeriod"])
        if cpu.get("realtimeRuntime"):
            try:
                self._write("cpu", "cpu.rt_runtime_us", cpu["realtimeRuntime"])
            except OSError as failure:
                if failure.errno != errno.EINVAL:
                    raise
                raise OSError(
                    failure.errno,
                    f"{cpu['realtimeRuntime']} us of realtime are more than the groups above the "
                    "container have: give them more by the daemon's --cpu-rt-runtime",
                ) from None
        if cpu.get("cpus"):
            self._write("cpuset", "cpuset.cpus", cpu["cpus"])
        if cpu.get("mems"):
            self._write("cpuset", "cpuset.mems", cpu["mems"])

    def _block(self, block: dict[str, Any], warnings: list[str]) -> None:
        weight_file = ""
        for name in ("blkio.bfq.weight", "blkio.weight"):
            if os.path.exists(f"{self._directories.get('blkio', '')}/{name}"):
                weight_file = name
                break
        if block.get("weight"):
            if weight_file:
                self._write("blkio", weight_file, block["weight"])
            else:
                warnings.append("block I/O weight is not set: the host's scheduler has none")
        for device in block.get("weightDevice") or ():
            if not weight_file:
                warnings.append("block I/O device weight is not set: the host's scheduler has none")
                break
            value = f"{device['major']}:{device['minor']} {device['weight']}"
            self._write("blkio", f"{weight_file}_device", value)
        for key, name in _THROTTLES:
            for device in block.get(key) or ():
                value = f"{device['major']}:{device['minor']} {device['rate']}"
                self._write("blkio", name, value)

    def _devices(self, rules: Any) -> None:
        directory = self._directories.get("devices")
        if directory is None or not rules:
            return
        with _Opened(f"{directory}/devices.deny") as deny:
            with _Opened(f"{directory}/devices.allow") as allow:
                for rule in rules:
                    (allow if rule.get("allow") else deny).write(_device_rule(rule))

    # --- freezer ----------------------------------------------------------------------------

    def freeze(self) -> None:
        for _ in range(_FREEZE_ATTEMPTS):
            self._write("freezer", "freezer.state", "FROZEN")
            if self._read("freezer", "freezer.state") == b"FROZEN":
                return
            time.sleep(0.005)
        self.thaw()
        raise OSError(16, "the container's processes could not be frozen")

    def thaw(self) -> None:
        self._write("freezer", "freezer.state", "THAWED")

    def hasten(self) -> None:
        try:
            self._write("cpu", "cpu.cfs_quota_us", -1)
        except OSError:
            pass  # no such controller, or it is gone

    # --- observation ------------------------------------------------------------------------

    def stats(self) -> Stats:
        return read_stats_v1(self._directories)

    def oom_kills(self) -> int:
        for line in self._read("memory", "memory.oom_control").splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
        return 0

    def watch_oom(self) -> OomWatch | None:
        directory = self._directories.get("memory")
        if directory is None:
            return None
        try:
            return EventFdWatch.open(directory)
        except OSError:
            return None


class _Opened:
    """A control file that takes one rule a write."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, value: str) -> None:
        try:
            os.write(self._fd, value.encode())
        except OSError as failure:
            raise OSError(
                failure.errno, f"write {value} to {self._path}: {failure.strerror}"
            ) from None


def _device_rule(rule: dict[str, Any]) -> str:
    kind = rule.get("type") or "a"
    if kind == "a" and rule.get("major") is None and rule.get("minor") is None:
        return "a"

    def number(value: int | None) -> str:
        return "*" if value is None or value < 0 else str(value)

    numbers = f"{number(rule.get('major'))}:{number(rule.get('minor'))}"
    return f"{kind} {numbers} {rule.get('access') or 'rwm'}"
