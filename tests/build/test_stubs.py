"""Removing what was made in a command's tree only to be mounted on."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.build.ops.stubs import Stubs
from sampan.store.metadata import Metadata
from sampan.store.overlay import OverlaySnapshotter

POINTS = ("/dev", "/etc/hosts", "/link", "/mnt/inner", "/proc", "/sys")


@pytest.fixture
def snapshots(tmp_path: Path) -> OverlaySnapshotter:
    return OverlaySnapshotter(tmp_path, Metadata(tmp_path / "meta.db"))


@pytest.mark.parametrize("moved", [True, False])
def test_only_empty_mount_points_go(
    snapshots: OverlaySnapshotter, tmp_path: Path, moved: bool
) -> None:
    aside = tmp_path / "aside" if moved else None
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (tmp_path / "aside", root / "dev", root / "proc", root / "etc", outside):
        directory.mkdir(parents=True)
    (root / "mnt" / "inner").mkdir(parents=True)
    (root / "etc" / "hosts").touch()
    (root / "proc" / "kept").touch()
    (root / "link").symlink_to(outside)
    Stubs(snapshots, tmp_path / "layer").clean(root, None, "result", POINTS, aside)
    left = {str(path.relative_to(root)) for path in root.rglob("*")}
    assert left == {"etc", "mnt", "proc", "proc/kept", "link"}
    assert outside.is_dir()
    assert [path.name for path in (tmp_path / "aside").iterdir()] != [] or not moved


def test_scratch_directories_of_committed_snapshots_go(snapshots: OverlaySnapshotter) -> None:
    snapshots.prepare("base", None)
    snapshots.commit("one", "base")
    snapshots.prepare("key", "one")
    directory = snapshots.upper("key").parent
    (directory / "work" / "work").mkdir()
    (directory / "work" / "proc").mkdir()
    snapshots.commit("two", "key")
    assert not (directory / "work").exists()
    snapshots._tidying.shutdown()
    assert [path.name for path in directory.iterdir()] == ["fs"]
