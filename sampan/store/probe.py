"""The choice of a snapshotter, by trying."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sampan.errors import Unsupported
from sampan.linux.mount import detached
from sampan.store.metadata import Metadata
from sampan.store.overlay import OverlaySnapshotter, overlay
from sampan.store.plain import PlainSnapshotter
from sampan.store.snapshots import Snapshotter

DRIVERS = ("erofs", "overlay", "plain")


def choose(
    state_dir: Path, run_dir: Path, metadata: Metadata, wanted: str | None = None
) -> tuple[Snapshotter, str]:
    """The best snapshotter that works on the file system of ``state_dir``, and why it is this
    one, in a sentence.  ``wanted`` insists on one; raises errors.Unsupported when it cannot."""
    if wanted not in (None, "overlay", "plain"):
        raise Unsupported(f"no such storage driver: {wanted} (there are overlay and plain)")
    if wanted != "plain":
        obstacle = try_overlay(state_dir)
        if obstacle is None:
            return OverlaySnapshotter(state_dir, metadata), "overlayfs can be mounted here"
        if wanted == "overlay":
            raise Unsupported(f"the storage driver overlay does not work here: {obstacle}")
        return PlainSnapshotter(state_dir, metadata), f"overlayfs does not work here: {obstacle}"
    return PlainSnapshotter(state_dir, metadata), "it was asked for"


def try_overlay(state_dir: Path) -> str | None:
    """What is wrong with overlayfs on this file system; None if nothing."""
    place = Path(tempfile.mkdtemp(prefix="probe-", dir=state_dir))
    try:
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        (place / "lower" / "file").write_bytes(b"probe")
        fd = detached(overlay([place / "lower"], place / "upper", place / "work"))
        try:
            os.unlink("file", dir_fd=fd)
        finally:
            os.close(fd)
        return None
    except OSError as error:
        return error.strerror or str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)
