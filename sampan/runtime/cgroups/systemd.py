"""Groups that systemd makes: a container is a transient scope below a slice.

On a host whose first process is systemd, that one owns the tree of groups.  A *scope* is its unit
for processes which others start; it is asked for over D-Bus (``StartTransientUnit``) with the
container's first process in it, delegated to us, and with the limits that systemd knows as
properties, so that they outlive its ``daemon-reload``.  Everything else, and the same limits to the
last digit, is written into the group's files as without systemd.

Such a group is named as runc names it: ``SLICE:PREFIX:NAME`` means the scope ``PREFIX-NAME.scope``
in the slice, whose own place follows from its name: ``a-b.slice`` lies in ``a.slice``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from sampan.linux.dbus import CallError, Connection, Message, Method
from sampan.runtime.cgroups.types import Group, OomWatch, Stats
from sampan.runtime.cgroups.v2 import weight_of_shares

SOCKET = "/run/systemd/private"
DEFAULT_SLICE = "system.slice"
_SECONDS = 30.0
_SERVICE = "org.freedesktop.systemd1"
_EXISTS = f"{_SERVICE}.UnitExists"
_NO_UNIT = f"{_SERVICE}.NoSuchUnit"
_INFINITY = 2**64 - 1
_PERIOD = 100_000

Property = tuple[str, tuple[str, Any]]
"""A unit's property: its name, and the signature and value of a variant."""


def _manager(member: str, signature: str) -> Method:
    return Method(_SERVICE, "/org/freedesktop/systemd1", f"{_SERVICE}.Manager", member, signature)


_START = _manager("StartTransientUnit", "ssa(sv)a(sa(sv))")
_STOP = _manager("StopUnit", "ss")
_RESET = _manager("ResetFailedUnit", "s")
_SET = _manager("SetUnitProperties", "sba(sv)")


def is_running() -> bool:
    """Whether systemd is this host's first process (as sd_booted(3) tells) and can be asked."""
    return os.path.isdir("/run/systemd/system") and os.path.exists(SOCKET)


def slice_path(name: str) -> str:
    """Where a slice lies in the tree: ``/a.slice/a-b.slice`` of ``a-b.slice``; systemd.slice(5).

    Raises ValueError for a name that is none of a slice.
    """
    stem = name.removesuffix(".slice")
    if stem == "-" and name != stem:
        return ""
    parts = stem.split("-")
    if stem == name or "/" in name or not all(parts):
        raise ValueError(f"invalid slice name: {name}")
    return "".join(f"/{'-'.join(parts[:count])}.slice" for count in range(1, len(parts) + 1))


def split(name: str) -> tuple[str, str, str]:
    """(slice, unit, path of its group) of ``SLICE:PREFIX:NAME``.  Raises ValueError."""
    parts = name.split(":")
    if len(parts) != 3 or not parts[2] or "/" in parts[1] + parts[2]:
        raise ValueError(f"cgroups path {name!r} is not SLICE:PREFIX:NAME")
    parent, prefix, own = parts
    parent = parent or DEFAULT_SLICE
    unit = f"{prefix}-{own}.scope" if prefix else f"{own}.scope"
    return parent, unit, f"{slice_path(parent)}/{unit}"


def properties(resources: dict[str, Any]) -> list[Property]:
    """The limits that version 2's properties of systemd.resource-control(5) can say."""
    found: dict[str, tuple[str, Any]] = {}
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit:
        found["MemoryMax"] = ("t", limit if limit > 0 else _INFINITY)
    if memory.get("reservation"):
        low = memory["reservation"]
        found["MemoryLow"] = ("t", low if low > 0 else _INFINITY)
    if swap:
        own = swap - limit if swap > 0 and limit and limit > 0 else swap
        found["MemorySwapMax"] = ("t", own if own >= 0 else _INFINITY)
    if cpu.get("shares"):
        found["CPUWeight"] = ("t", weight_of_shares(cpu["shares"]))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        period = period or _PERIOD
        share = quota * 1_000_000 // period if quota and quota > 0 else _INFINITY
        found["CPUQuotaPerSecUSec"] = ("t", share)
        found["CPUQuotaPeriodUSec"] = ("t", period)
    if cpu.get("cpus"):
        found["AllowedCPUs"] = ("ay", bit_mask(cpu["cpus"]))
    if cpu.get("mems"):
        found["AllowedMemoryNodes"] = ("ay", bit_mask(cpu["mems"]))
    pids = (resources.get("pids") or {}).get("limit")
    if pids:
        found["TasksMax"] = ("t", pids if pids > 0 else _INFINITY)
    return list(found.items())


def bit_mask(numbers: str) -> bytes:
    """``0-2,8`` as systemd wants it: bit N of byte N // 8.  Raises ValueError."""
    mask = 0
    for part in numbers.split(","):
        first, _, last = part.strip().partition("-")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    return mask.to_bytes(max(1, (mask.bit_length() + 7) // 8), "little")


class GroupSystemd:
    """A container's scope; what its files can do is left to the group of that path."""

    def __init__(
        self, name: str, at_path: Callable[[str], Group], further: Sequence[Property] = ()
    ) -> None:
        """``at_path`` makes the group whose files are used; ``further`` properties are given to
        the unit.  Raises ValueError for a bad name."""
        self.path = name
        self._name = name.rpartition(":")[2]
        self._slice, self._unit, path = split(name)
        self._files = at_path(path)
        self._further = further
        self._wanted: dict[str, Any] | None = None
        self._warnings: list[str] = []

    # --- life -------------------------------------------------------------------------------

    def create(self, resources: dict[str, Any]) -> list[str]:
        """Nothing can be made without a process: :meth:`add` starts the scope with its first, and
        adds to the list of warnings that is returned here."""
        self._wanted = resources
        return self._warnings

    def add(self, pid: int) -> None:
        if self._wanted is None:
            self._files.add(pid)
            return
        resources, self._wanted = self._wanted, None
        with self._connection() as systemd:
            self._start(systemd, pid, properties(resources))
        try:
            self._warnings += self._files.create(resources)
            self._files.add(pid)
        except BaseException:
            self.delete()
            raise

    def _connection(self) -> Connection:
        try:
            return Connection(SOCKET, _SECONDS)
        except OSError as failure:
            raise OSError(
                failure.errno, f"systemd cannot be asked for {self._unit} ({failure.strerror})"
            ) from None

    def _start(self, systemd: Connection, pid: int, limits: list[Property]) -> None:
        accounting = ("CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting")
        wanted: list[Property] = [
            ("Description", ("s", f"sampan container {self._name}")),
            ("Slice", ("s", self._slice)),
            ("DefaultDependencies", ("b", False)),
            ("CollectMode", ("s", "inactive-or-failed")),
            ("Delegate", ("b", True)),
            *((name, ("b", True)) for name in accounting),
            ("PIDs", ("au", [pid])),
            *limits,
            *self._further,
        ]
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self._job(systemd, _START, "fail", wanted, [])
                return
            except CallError as failure:
                if failure.name != _EXISTS or time.monotonic() > deadline:
                    raise OSError(failure.errno, f"{self._unit}: {failure.strerror}") from None
            # The last one of this name is on its way out, or a crash has left it.
            self._stop(systemd)

    def _stop(self, systemd: Connection) -> None:
        for method, mode in ((_STOP, ("replace",)), (_RESET, ())):
            try:
                self._job(systemd, method, *mode)
            except CallError as failure:
                if failure.name != _NO_UNIT:
                    raise

    def _job(self, systemd: Connection, method: Method, *values: Any) -> None:
        """Call for the unit and wait until the job that this makes, if any, has been done."""
        ended: dict[str, str] = {}

        def note(message: Message) -> None:
            if message.member == "JobRemoved":
                _, job, _, result = message.values
                ended[job] = result

        answer = systemd.call(method, self._unit, *values, on_signal=note)
        if not answer:
            return
        while answer[0] not in ended:
            message = systemd.receive()
            if message.is_signal:
                note(message)
        if ended[answer[0]] != "done":
            raise OSError(5, f"systemd could not make {self._unit}: {ended[answer[0]]}")

    def delete(self) -> None:
        self._files.delete()
        # A scope without processes ends by itself, but only soon.
        with contextlib.suppress(OSError), self._connection() as systemd:
            self._stop(systemd)

    def update(self, resources: dict[str, Any]) -> None:
        changed = properties(resources)
        if changed:
            with self._connection() as systemd:
                systemd.call(_SET, self._unit, True, changed)
        self._files.update(resources)

    # --- as without systemd -------------------------------------------------------------------

    def freeze(self) -> None:
        self._files.freeze()

    def thaw(self) -> None:
        self._files.thaw()

    def hasten(self) -> None:
        self._files.hasten()

    def stats(self) -> Stats:
        return self._files.stats()

    def pids(self) -> list[int]:
        return self._files.pids()

    def oom_kills(self) -> int:
        return self._files.oom_kills()

    def watch_oom(self) -> OomWatch | None:
        return self._files.watch_oom()

    def mount_points(self) -> dict[str, str]:
        return self._files.mount_points()
