"""Read a group's counters into :class:`Stats`."""

from __future__ import annotations

import os
import time

from sampan.linux import files
from sampan.runtime.cgroups.types import BlkioEntry, Stats

_TICK = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") or 100)
_UNLIMITED = 1 << 62


def _text(path: str) -> bytes:
    try:
        return files.read(path)
    except OSError:
        return b""


def _number(path: str) -> int:
    text = _text(path).strip()
    if text == b"max":
        return 0
    return int(text) if text.lstrip(b"-").isdigit() else 0


def _table(path: str) -> dict[str, int]:
    """A file of ``name value`` lines."""
    table = {}
    for line in _text(path).decode().splitlines():
        name, _, value = line.partition(" ")
        if value.strip().lstrip("-").isdigit():
            table[name] = int(value)
    return table


def host_memory() -> int:
    """The machine's memory: what "no limit" means."""
    for line in files.read("/proc/meminfo").splitlines():
        if line.startswith(b"MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def read_stats_v1(directories: dict[str, str]) -> Stats:
    """The counters of version 1; missing controllers leave zeros."""
    stats = Stats(time.time_ns())
    if cpuacct := directories.get("cpuacct"):
        stats.cpu_total = _number(f"{cpuacct}/cpuacct.usage")
        stats.cpu_per = [int(part) for part in _text(f"{cpuacct}/cpuacct.usage_percpu").split()]
        ticks = _table(f"{cpuacct}/cpuacct.stat")
        stats.cpu_user = ticks.get("user", 0) * _TICK
        stats.cpu_kernel = ticks.get("system", 0) * _TICK
    if cpu := directories.get("cpu"):
        table = _table(f"{cpu}/cpu.stat")
        stats.throttled_periods = table.get("nr_periods", 0)
        stats.throttled_count = table.get("nr_throttled", 0)
        stats.throttled_time = table.get("throttled_time", 0)
    if memory := directories.get("memory"):
        stats.memory_usage = _number(f"{memory}/memory.usage_in_bytes")
        stats.memory_max_usage = _number(f"{memory}/memory.max_usage_in_bytes")
        stats.memory_failcnt = _number(f"{memory}/memory.failcnt")
        limit = _number(f"{memory}/memory.limit_in_bytes")
        stats.memory_limit = host_memory() if limit <= 0 or limit > _UNLIMITED else limit
        stats.memory_stats = _table(f"{memory}/memory.stat")
    if pids := directories.get("pids"):
        stats.pids = _number(f"{pids}/pids.current")
        stats.pids_limit = _number(f"{pids}/pids.max")
    if blkio := directories.get("blkio"):
        stats.blkio_bytes = _blkio_v1(f"{blkio}/blkio.throttle.io_service_bytes_recursive")
        stats.blkio_ops = _blkio_v1(f"{blkio}/blkio.throttle.io_serviced_recursive")
    return stats


def _blkio_v1(path: str) -> list[BlkioEntry]:
    entries = []
    for line in _text(path).decode().splitlines():
        fields = line.split()
        if len(fields) == 3 and ":" in fields[0]:
            major, minor = fields[0].split(":")
            entries.append(BlkioEntry(int(major), int(minor), fields[1], int(fields[2])))
    return entries


def read_stats_v2(directory: str) -> Stats:
    """The counters of version 2."""
    stats = Stats(time.time_ns())
    cpu = _table(f"{directory}/cpu.stat")
    stats.cpu_total = cpu.get("usage_usec", 0) * 1000
    stats.cpu_user = cpu.get("user_usec", 0) * 1000
    stats.cpu_kernel = cpu.get("system_usec", 0) * 1000
    stats.throttled_periods = cpu.get("nr_periods", 0)
    stats.throttled_count = cpu.get("nr_throttled", 0)
    stats.throttled_time = cpu.get("throttled_usec", 0) * 1000
    stats.memory_usage = _number(f"{directory}/memory.current")
    stats.memory_max_usage = _number(f"{directory}/memory.peak")
    stats.memory_limit = _number(f"{directory}/memory.max") or host_memory()
    stats.memory_failcnt = _table(f"{directory}/memory.events").get("max", 0)
    stats.memory_stats = _table(f"{directory}/memory.stat")
    stats.pids = _number(f"{directory}/pids.current")
    stats.pids_limit = _number(f"{directory}/pids.max")
    for line in _text(f"{directory}/io.stat").decode().splitlines():
        device, *pairs = line.split()
        major, minor = (int(part) for part in device.split(":"))
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for op, size, count in (("Read", "rbytes", "rios"), ("Write", "wbytes", "wios")):
            stats.blkio_bytes.append(BlkioEntry(major, minor, op, int(values.get(size, 0))))
            stats.blkio_ops.append(BlkioEntry(major, minor, op, int(values.get(count, 0))))
    return stats
