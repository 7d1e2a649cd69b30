"""What the builds of one daemon share: the cache, work in flight, cache mounts."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.build.ops.mounts import CacheMounts
from sampan.build.solver.cache import BuildCache
from sampan.build.solver.scheduler import Shared
from sampan.linux.mount import umount

if TYPE_CHECKING:
    from sampan.build.types import BuildDeps


@dataclass(slots=True)
class BuildShared:
    cache: BuildCache
    flights: Shared = field(default_factory=Shared)
    mounts: CacheMounts = field(default_factory=CacheMounts)

    @classmethod
    def open(cls, deps: BuildDeps) -> BuildShared:
        """Open the cache and clean up after a process that was killed during a build."""
        recover(deps.run_dir, deps.state_dir)
        cache = BuildCache(deps.metadata, deps.snapshots, deps.state_dir / "build-mounts")
        deps.images.add_roots(cache.roots)
        return cls(cache)


def recover(run_dir: Path, state_dir: Path) -> None:
    """Unmount and remove what killed builds left in the run and state directories."""
    for directory in (run_dir / "build-mounts").glob("*/*"):
        with contextlib.suppress(OSError):
            umount(str(directory))
    for leftover in (run_dir / "build-mounts", run_dir / "build", state_dir / "tmp" / "build"):
        shutil.rmtree(leftover, ignore_errors=True)
