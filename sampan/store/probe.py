"""The choice of a snapshotter, by trying."""

from __future__ import annotations

from pathlib import Path

from sampan.store.leases import Leases
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Snapshotter


def choose(
    state_dir: Path,
    run_dir: Path,
    metadata: Metadata,
    leases: Leases | None = None,
    wanted: str | None = None,
) -> tuple[Snapshotter, str]:
    """The best snapshotter that works on the file system of ``state_dir``, and why it is this
    one, in a sentence.  ``wanted`` insists on one; raises errors.Unsupported when it cannot."""
    raise NotImplementedError
