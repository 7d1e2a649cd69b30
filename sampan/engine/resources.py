"""Limits of a container: checked, and as ``linux.resources`` of an OCI specification.  Pure."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine.types import HostConfig, ThrottleDevice
from sampan.errors import InvalidParameter

MINIMUM_MEMORY = 6 << 20
CPU_PERIOD = 100_000
CPU_SHARES = (2, 1 << 18)
_CPU_SET = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*\Z")


def check(host: HostConfig) -> None:
    """Raises InvalidParameter with Docker's wording for limits that cannot be."""
    _check_memory(host)
    _check_cpus(host)
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if host.kernel_memory or host.kernel_memory_tcp:
        raise InvalidParameter(
            "kernel memory limits are not supported: the kernel has removed them"
        )
    if host.cpu_count or host.cpu_percent or host.io_maximum_iops or host.io_maximum_bandwidth:
        raise InvalidParameter(
            "CpuCount, CpuPercent and IOMaximum* are for Windows containers only"
        )


def kept(host: HostConfig, version: int) -> tuple[HostConfig, list[str]]:
    """The configuration without what that version of control groups has not, and Docker's words
    for what is discarded."""
    discarded = []
    if version == 2 and host.memory_swappiness is not None:
        host = msgspec.structs.replace(host, memory_swappiness=None)
        discarded.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not "
            "mounted. Memory swappiness discarded."
        )
    if version == 2:
        if host.oom_kill_disable:
            discarded.append(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded."
            )
        host = msgspec.structs.replace(host, oom_kill_disable=None)
    return host, discarded


def _check_memory(host: HostConfig) -> None:
    if host.memory and host.memory < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if host.memory == 0 and host.memory_swap > 0:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidParameter(
            f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100"
        )
    if host.memory_reservation and host.memory_reservation < MINIMUM_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if host.memory and host.memory < host.memory_reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )


def _check_cpus(host: HostConfig) -> None:
    count = os.cpu_count() or 1
    if host.nano_cpus:
        if host.cpu_quota or host.cpu_period:
            name = "Period" if host.cpu_period else "Quota"
            raise InvalidParameter(
                f"Conflicting options: Nano CPUs and CPU {name} cannot both be set."
            )
        if not 0 < host.nano_cpus <= count * 10**9:
            raise InvalidParameter(
                f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
            )
    if host.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares: {host.cpu_shares}")
    if host.cpu_shares and host.cpu_shares < CPU_SHARES[0]:
        raise InvalidParameter(f"the minimum allowed cpu-shares is {CPU_SHARES[0]}")
    if host.cpu_shares > CPU_SHARES[1]:
        raise InvalidParameter(f"the maximum allowed cpu-shares is {CPU_SHARES[1]}")
    if host.cpu_period and not 1_000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host.cpu_quota < 1_000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_realtime_runtime and host.cpu_realtime_runtime > (
        host.cpu_realtime_period or 1_000_000
    ):
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")
    for name, text, online in (
        ("cpus", host.cpuset_cpus, "/sys/devices/system/cpu/online"),
        ("memory nodes", host.cpuset_mems, "/sys/devices/system/node/online"),
    ):
        if not text:
            continue
        if not _CPU_SET.match(text):
            raise InvalidParameter(f"Invalid value {text} for cpuset {name}")
        available = _online(online)
        if available and not _members(text) <= _members(available):
            raise InvalidParameter(
                f"Requested {'CPUs' if name == 'cpus' else name} are not available - "
                f"requested {text}, available: {available}"
            )


def _online(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _members(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def to_spec(host: HostConfig) -> dict[str, Any]:
    """``linux.resources`` for these limits; members that are not limited are absent."""
    resources: dict[str, Any] = {}
    memory = _memory(host)
    if memory:
        resources["memory"] = memory
    cpu = _cpu(host)
    if cpu:
        resources["cpu"] = cpu
    if host.pids_limit:
        resources["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    block = _block_io(host)
    if block:
        resources["blockIO"] = block
    return resources


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        # Docker's default: as much swap again as memory.
        memory["swap"] = host.memory_swap or host.memory * 2
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.cpu_shares:
        cpu["shares"] = host.cpu_shares
    if host.nano_cpus:
        cpu["period"] = CPU_PERIOD
        cpu["quota"] = host.nano_cpus * CPU_PERIOD // 10**9
    for name, value in (
        ("period", host.cpu_period),
        ("quota", host.cpu_quota),
        ("realtimePeriod", host.cpu_realtime_period),
        ("realtimeRuntime", host.cpu_realtime_runtime),
        ("cpus", host.cpuset_cpus),
        ("mems", host.cpuset_mems),
    ):
        if value:
            cpu[name] = value
    return cpu


def _block_io(host: HostConfig) -> dict[str, Any]:
    block: dict[str, Any] = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        block["weightDevice"] = [
            {**_device(item.path), "weight": item.weight} for item in host.blkio_weight_device
        ]
    for name, devices in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if devices:
            block[name] = [_throttle(item) for item in devices]
    return block


def _throttle(item: ThrottleDevice) -> dict[str, Any]:
    return {**_device(item.path), "rate": item.rate}


def _device(path: str) -> dict[str, int]:
    try:
        number = Path(path).stat().st_rdev
    except OSError as error:
        raise InvalidParameter(f"cannot use the block device {path}: {error.strerror}") from None
    return {"major": os.major(number), "minor": os.minor(number)}
