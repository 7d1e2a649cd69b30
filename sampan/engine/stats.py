"""Samples of what a container uses, as Docker's ``stats`` streams them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sampan.engine.processes import Processes
from sampan.engine.state import Container, now
from sampan.engine.timestamps import ZERO, format_time
from sampan.runtime.cgroups import BlkioEntry
from sampan.runtime.cgroups import Stats as Sample

INTERVAL = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
_SPLIT = ("workingset_activate", "workingset_refault")
_NETWORK_FIELDS = (
    ("rx_bytes", 0),
    ("rx_packets", 1),
    ("rx_errors", 2),
    ("rx_dropped", 3),
    ("tx_bytes", 8),
    ("tx_packets", 9),
    ("tx_errors", 10),
    ("tx_dropped", 11),
)


class Stats:
    """Reads control groups and the network's counters."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def samples(
        self, container: Container, *, stream: bool, one_shot: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Documents of ``GET /containers/{id}/stats``.

        One a second while the container is there; without ``stream`` one, which needs a second
        for its predecessor unless it is ``one_shot``.  A container that does not run has zeros,
        and so has one that is removed while the one document is made.
        """
        previous: tuple[Sample, int] | None = None
        if not stream and not one_shot and container.running:
            previous = await self._read(container)
            await asyncio.sleep(INTERVAL)
        while not stream or not container.removed.is_set():
            current = await self._read(container) if container.running else None
            yield await asyncio.to_thread(_document, container, current, previous)
            if not stream:
                return
            previous = current
            try:
                async with asyncio.timeout(INTERVAL):
                    await container.removed.wait()
            except TimeoutError:
                continue

    async def _read(self, container: Container) -> tuple[Sample, int] | None:
        def read() -> tuple[Sample, int] | None:
            try:
                return self._processes.group(container).stats(), _system_time()
            except (FileNotFoundError, OSError):
                # The container has ended in between.
                return None

        return await asyncio.to_thread(read)


def _system_time() -> int:
    """Nanoseconds that all CPUs have spent since boot, as Docker counts them."""
    with Path("/proc/stat").open() as file:
        fields = file.readline().split()[1:9]
    return sum(int(field) for field in fields) * (10**9 // _TICKS)


def _document(
    container: Container,
    current: tuple[Sample, int] | None,
    previous: tuple[Sample, int] | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": f"/{container.name}",
        "id": container.id,
        "read": format_time(now()) if current else ZERO,
        "preread": format_time(previous[0].read_at) if previous else ZERO,
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(*current) if current else _cpu(None, 0),
        "precpu_stats": _cpu(*previous) if previous else _cpu(None, 0),
        "memory_stats": _memory(current[0]) if current else {},
        "pids_stats": _pids(current[0]) if current else {},
        "blkio_stats": _block_io(current[0]) if current else _block_io(None),
    }
    networks = _networks(container.pid) if current and container.pid else {}
    if networks and container.record.host.network_mode != "host":
        document["networks"] = networks
    return document


def _cpu(sample: Sample | None, system: int) -> dict[str, Any]:
    if sample is None:
        usage = {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}
        return {"cpu_usage": usage, "throttling_data": _throttling(0, 0, 0)}
    usage_now: dict[str, Any] = {
        "total_usage": sample.cpu_total,
        "usage_in_kernelmode": sample.cpu_kernel,
        "usage_in_usermode": sample.cpu_user,
    }
    if sample.cpu_per:
        usage_now["percpu_usage"] = sample.cpu_per
    return {
        "cpu_usage": usage_now,
        "system_cpu_usage": system,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": _throttling(
            sample.throttled_periods, sample.throttled_count, sample.throttled_time
        ),
    }


def _throttling(periods: int, throttled: int, time: int) -> dict[str, int]:
    return {"periods": periods, "throttled_periods": throttled, "throttled_time": time}


def _memory(sample: Sample) -> dict[str, Any]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = sample.memory_limit if 0 < sample.memory_limit < total else total
    stats = dict(sample.memory_stats)
    for name in _SPLIT:
        # Version 2 tells them apart by kind since Linux 5.9; Docker's clients know the sums.
        if f"{name}_file" in stats and name not in stats:
            stats[name] = stats[f"{name}_anon"] + stats[f"{name}_file"]
    document: dict[str, Any] = {
        "usage": sample.memory_usage,
        "stats": stats,
        "limit": limit,
    }
    if sample.memory_max_usage:
        document["max_usage"] = sample.memory_max_usage
    if sample.memory_failcnt:
        document["failcnt"] = sample.memory_failcnt
    return document


def _pids(sample: Sample) -> dict[str, int]:
    # Docker shows "no limit" as the largest number of its type.
    return {"current": sample.pids, "limit": sample.pids_limit or 2**64 - 1}


def _block_io(sample: Sample | None) -> dict[str, Any]:
    def entries(found: list[BlkioEntry]) -> list[dict[str, Any]] | None:
        return [
            {"major": e.major, "minor": e.minor, "op": e.op.lower(), "value": e.value}
            for e in found
        ] or None

    return {
        "io_service_bytes_recursive": entries(sample.blkio_bytes) if sample else None,
        "io_serviced_recursive": entries(sample.blkio_ops) if sample else None,
        "io_queue_recursive": None,
        "io_service_time_recursive": None,
        "io_wait_time_recursive": None,
        "io_merged_recursive": None,
        "io_time_recursive": None,
        "sectors_recursive": None,
    }


def _networks(pid: int) -> dict[str, dict[str, int]]:
    """Counters of each interface of the process's network namespace but the loopback."""
    try:
        lines = Path("/proc", str(pid), "net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, counters = line.partition(":")
        values = counters.split()
        if name.strip() != "lo":
            found[name.strip()] = {field: int(values[at]) for field, at in _NETWORK_FIELDS}
    return found
