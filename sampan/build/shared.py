"""What the builds of one daemon share: the cache, work in flight, cache mounts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.build.ops.mounts import CacheMounts
from sampan.build.ops.parents import GroupParents
from sampan.build.ops.stubs import Stubs
from sampan.build.solver.cache import PREFIX, UNFINISHED, BuildCache
from sampan.build.solver.scheduler import Shared
from sampan.errors import Conflict, NotFound
from sampan.linux.mount import umount
from sampan.linux.sync import syncfs
from sampan.linux.trees import remove_tree
from sampan.runtime.control import keeper_alive, read_state

if TYPE_CHECKING:
    from sampan.build.types import BuildDeps


_PATIENCE = 5.0
_CALM = 5.0


@dataclass(slots=True)
class BuildShared:
    cache: BuildCache
    stubs: Stubs
    flights: Shared = field(default_factory=Shared)
    mounts: CacheMounts = field(default_factory=CacheMounts)
    parents: GroupParents = field(default_factory=GroupParents)
    _settling: asyncio.Task[None] | None = None

    def settle(self, state_dir: Path) -> None:
        """Have the disk hold what builds have made, a little later: they do not wait for it."""
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle(state_dir))

    async def _settle(self, state_dir: Path) -> None:
        while ids := self.cache.unsettled():
            # By then the kernel has written most of it without being asked.
            await asyncio.sleep(_CALM)
            await asyncio.to_thread(syncfs, state_dir)
            try:
                self.cache.settle(ids)
            except sqlite3.ProgrammingError:
                return  # The daemon has closed its database meanwhile.

    @classmethod
    def open(cls, deps: BuildDeps) -> BuildShared:
        """Open the cache and clean up after a process that was killed during a build."""
        recover(deps)
        cache = BuildCache(deps.metadata, deps.snapshots, deps.state_dir / "build-mounts")
        used = {name for record in cache.records() for name in (record.snapshot, record.parent)}
        _remove(deps, [name for name in _names(deps, PREFIX) if name not in used])
        cache.distrust()
        deps.images.add_roots(cache.roots)
        return cls(cache, Stubs(deps.snapshots, deps.run_dir / "build-stubs"))


def recover(deps: BuildDeps) -> None:
    """Clean up after builds that were killed: commands still running, mounts, snapshots, files."""
    run_dir, state_dir = deps.run_dir, deps.state_dir
    for directory in (run_dir / "build").glob("*/keeper"):
        _end(directory)
    for directory in (run_dir / "build-mounts").glob("*/*"):
        with contextlib.suppress(OSError):
            umount(str(directory))
    for leftover in (run_dir / "build-mounts", run_dir / "build", state_dir / "tmp" / "build"):
        remove_tree(leftover, ignore_errors=True)
    _remove(deps, _names(deps, UNFINISHED))


def _names(deps: BuildDeps, prefix: str) -> list[str]:
    """The snapshots whose names begin with ``prefix``, the uppermost first."""
    rows = deps.metadata.query(
        "SELECT name FROM snapshot_names WHERE driver = ? AND name >= ? AND name < ?"
        " ORDER BY snapshot DESC",
        (deps.snapshots.driver, prefix, prefix + "~"),
    )
    return [name for (name,) in rows]


def _remove(deps: BuildDeps, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(NotFound, Conflict):
            deps.snapshots.remove(name)


def _end(place: Path) -> None:
    """Kill the command whose keeper's directory this is, and wait for the keeper to end."""
    state = read_state(place)
    if state is None or not keeper_alive(state):
        return
    with contextlib.suppress(OSError):
        keeper = os.pidfd_open(state.keeper_pid)
        try:
            # Process 1 of its namespace takes all others with it; the keeper then cleans up.
            os.kill(state.pid or state.keeper_pid, signal.SIGKILL)
            select.select([keeper], [], [], _PATIENCE)
        finally:
            os.close(keeper)
