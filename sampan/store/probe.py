"""The choice of a snapshotter, by trying."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from sampan.errors import Unsupported
from sampan.linux.mount import detached, umount
from sampan.store.erofs import ErofsSnapshotter, mount_erofs
from sampan.store.erofs_image import BLOCK, Device, build
from sampan.store.metadata import Metadata
from sampan.store.overlay import OverlaySnapshotter, overlay
from sampan.store.plain import PlainSnapshotter
from sampan.store.snapshots import Snapshotter
from sampan.store.tree import Node, directory_node

DRIVERS = ("erofs", "overlay", "plain")


def choose(
    state_dir: Path, run_dir: Path, metadata: Metadata, wanted: str | None = None
) -> tuple[Snapshotter, str]:
    """The best snapshotter that works on the file system of ``state_dir``, and why it is this
    one, in a sentence.  A state directory keeps the driver that made its snapshots while that
    works.  ``wanted`` insists on one; raises errors.Unsupported when it cannot."""
    if wanted is not None and wanted not in DRIVERS:
        raise Unsupported(f"no such storage driver: {wanted} (there are {', '.join(DRIVERS)})")
    reasons: list[str] = []
    if wanted is None:
        for driver in _drivers_of_snapshots(metadata):
            if _TESTS[driver](state_dir) is None:
                return _make(driver, state_dir, run_dir, metadata), "it made what is stored here"
    for driver in DRIVERS:
        if wanted not in (None, driver):
            continue
        obstacle = _TESTS[driver](state_dir)
        if obstacle is None:
            reasons.append(_REASONS[driver] if wanted is None else "it was asked for")
            return _make(driver, state_dir, run_dir, metadata), "; ".join(reasons)
        if wanted is not None:
            raise Unsupported(f"the storage driver {driver} does not work here: {obstacle}")
        reasons.append(f"{driver} does not work here ({obstacle})")
    raise AssertionError("plain always works")


def _drivers_of_snapshots(metadata: Metadata) -> list[str]:
    """Drivers with snapshots here, the one with the most first."""
    rows = metadata.query(
        "SELECT driver FROM snapshot_names GROUP BY driver ORDER BY count(*) DESC"
    )
    return [driver for (driver,) in rows if driver in DRIVERS]


def _make(driver: str, state_dir: Path, run_dir: Path, metadata: Metadata) -> Snapshotter:
    if driver == "erofs":
        return ErofsSnapshotter(state_dir, run_dir, metadata)
    if driver == "overlay":
        return OverlaySnapshotter(state_dir, metadata)
    return PlainSnapshotter(state_dir, metadata)


def try_erofs(state_dir: Path) -> str | None:
    """What is wrong with a file-backed EROFS under overlayfs on this file system; None if
    nothing.  A file is read through the whole stack."""
    place = Path(tempfile.mkdtemp(prefix="probe-", dir=state_dir))
    lower = place / "lower"
    try:
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        (place / "data").write_bytes(bytes(BLOCK) + b"probe".ljust(BLOCK, b"\0"))
        (place / "image").write_bytes(_probe_image())
        mount_erofs(place / "image", [place / "data"], lower)
        try:
            fd = detached(overlay([lower], place / "upper", place / "work", volatile=True))
            try:
                file = os.open("file", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
                try:
                    return None if os.read(file, 16) == b"probe" else "it reads wrong data"
                finally:
                    os.close(file)
            finally:
                os.close(fd)
        finally:
            umount(str(lower))
    except OSError as error:
        return error.strerror or str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _probe_image() -> bytes:
    root = directory_node()
    file = Node(stat.S_IFREG | 0o644)
    file.size, file.offset = 5, BLOCK
    assert root.children is not None
    root.children[b"file"] = file
    return bytes(build(root, [Device(b"data", 2 * BLOCK)], {0: 1}))


def try_overlay(state_dir: Path) -> str | None:
    """What is wrong with overlayfs on this file system; None if nothing."""
    place = Path(tempfile.mkdtemp(prefix="probe-", dir=state_dir))
    try:
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        (place / "lower" / "file").write_bytes(b"probe")
        mount = overlay([place / "lower"], place / "upper", place / "work", volatile=True)
        fd = detached(mount)
        try:
            os.unlink("file", dir_fd=fd)
        finally:
            os.close(fd)
        return None
    except OSError as error:
        return error.strerror or str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def try_plain(_: Path) -> str | None:
    """Copies always work."""
    return None


_TESTS = {"erofs": try_erofs, "overlay": try_overlay, "plain": try_plain}
_REASONS = {
    "erofs": "EROFS can be mounted over files here",
    "overlay": "overlayfs can be mounted here",
    "plain": "copies work everywhere",
}
