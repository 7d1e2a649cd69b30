"""How a bundle's process is to be scheduled: ``scheduler``, ``ioPriority``, ``execCPUAffinity``."""

from __future__ import annotations

import os
from typing import Any

from sampan.linux import scheduling


def check(process: dict[str, Any]) -> None:
    """Raises ValueError that names the first field which cannot be."""
    _check_scheduler(process.get("scheduler") or {})
    share = process.get("ioPriority") or {}
    if share:
        _one_of(share.get("class"), scheduling.IO_CLASSES, "process.ioPriority.class")
        level = share.get("priority", 0)
        if not isinstance(level, int) or not 0 <= level <= 7:
            raise ValueError(f"process.ioPriority.priority {level!r} is not within 0 to 7")
    affinity = process.get("execCPUAffinity") or {}
    for name in affinity:
        if name not in ("initial", "final"):
            raise ValueError(f"process.execCPUAffinity.{name} is unknown")
        cpus(str(affinity[name]), f"process.execCPUAffinity.{name}")


def _check_scheduler(wanted: dict[str, Any]) -> None:
    if not wanted:
        return
    policy = wanted.get("policy")
    _one_of(policy, scheduling.POLICIES, "process.scheduler.policy")
    for flag in wanted.get("flags") or ():
        _one_of(flag, scheduling.FLAGS, "process.scheduler.flags")
    if not -20 <= int(wanted.get("nice") or 0) <= 19:
        raise ValueError(f"process.scheduler.nice {wanted['nice']} is not within -20 to 19")
    if wanted.get("priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise ValueError("process.scheduler.priority is for SCHED_FIFO and SCHED_RR only")
    times = any(wanted.get(name) for name in ("runtime", "deadline", "period"))
    if times and policy != "SCHED_DEADLINE":
        raise ValueError("process.scheduler: runtime, deadline and period need SCHED_DEADLINE")


def _one_of(value: object, known: dict[str, int], field: str) -> None:
    if value not in known:
        raise ValueError(f"{field} {value!r} is unknown: it is one of {', '.join(known)}")


def apply(process: dict[str, Any]) -> None:
    """Schedule the calling process as asked.  Raises OSError that names what was refused."""
    wanted = process.get("scheduler")
    if wanted:
        flags = 0
        for flag in wanted.get("flags") or ():
            flags |= scheduling.FLAGS[flag]
        scheduling.set_scheduler(
            scheduling.POLICIES[wanted["policy"]],
            flags=flags,
            **{
                name: int(wanted.get(name) or 0)
                for name in ("nice", "priority", "runtime", "deadline", "period")
            },
        )
    share = process.get("ioPriority")
    if share:
        kind = scheduling.IO_CLASSES[share["class"]]
        scheduling.set_io_priority(kind, int(share.get("priority") or 0))


def pin(process: dict[str, Any], when: str) -> None:
    """Keep the calling process to the processors of ``initial`` or ``final``."""
    listed = (process.get("execCPUAffinity") or {}).get(when)
    if listed:
        os.sched_setaffinity(0, cpus(str(listed), f"process.execCPUAffinity.{when}"))


def cpus(listed: str, field: str) -> set[int]:
    """``0-2,7`` as numbers.  Raises ValueError."""
    found: set[int] = set()
    for part in listed.split(","):
        first, separator, last = part.strip().partition("-")
        if not first.isdecimal() or (separator and not last.isdecimal()):
            raise ValueError(f"{field} {listed!r} is not a list of processors, like 0-2,7")
        found.update(range(int(first), int(last if separator else first) + 1))
    return found
