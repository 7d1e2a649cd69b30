"""Realtime time in version 1: a group can be given no more than the groups above it have."""

from __future__ import annotations

import os
from typing import NamedTuple

from sampan.linux import files
from sampan.runtime.cgroups.layout import Layout


class Realtime(NamedTuple):
    """What the groups above containers get: ``runtime`` of every ``period``, in microseconds; 0
    for the kernel's own (1 s, nothing)."""

    period: int = 0
    runtime: int = 0


def grant(layout: Layout, path: str, time: Realtime) -> None:
    """Give it to every group on the way to the one at ``path``, which is left to its own limits.

    Does nothing where the kernel counts no realtime for groups.  Raises OSError.
    """
    directory = layout.points.get("cpu", "")
    if not os.path.exists(f"{directory}/cpu.rt_runtime_us"):
        return
    for part in path.strip("/").split("/")[:-1]:
        directory = f"{directory}/{part}"
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            pass
        for name, value in (("cpu.rt_period_us", time.period), ("cpu.rt_runtime_us", time.runtime)):
            if value and files.read(f"{directory}/{name}").strip() != str(value).encode():
                files.write(f"{directory}/{name}", str(value))
