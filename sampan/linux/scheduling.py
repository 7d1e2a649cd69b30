"""How a process is scheduled: policy and priority (sched_setattr), and its share of disks (ioprio)."""

from __future__ import annotations

import ctypes

from sampan.linux.syscalls import by_machine, error, numbered

POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_PROCESS = 1
_CLASS_SHIFT = 13


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


_int, _uint = ctypes.c_int, ctypes.c_uint
_sched_setattr = numbered(by_machine(314, 274), _int, ctypes.POINTER(_Attributes), _uint)
_ioprio_set = numbered(by_machine(251, 30), _int, _int, _int)


def set_scheduler(
    policy: int,
    *,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    """Of the calling thread; times in nanoseconds, for SCHED_DEADLINE."""
    wanted = _Attributes(
        ctypes.sizeof(_Attributes), policy, flags, nice, priority, runtime, deadline, period
    )
    if _sched_setattr(0, ctypes.byref(wanted), 0) < 0:
        raise error("set the scheduler")


def set_io_priority(kind: int, level: int) -> None:
    """Of the calling process; ``level`` is 0 (first) to 7."""
    if _ioprio_set(_PROCESS, 0, kind << _CLASS_SHIFT | level) < 0:
        raise error("set the I/O priority")
