"""Trees deeper than a path may be long and than functions may nest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sampan.linux.trees import below, remove_tree

DEPTH = 6000


def deep(top: Path, depth: int = DEPTH) -> None:
    """``depth`` directories in each other, each with a file beside the next."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def test_a_deep_tree_is_counted_and_removed(tmp_path: Path) -> None:
    deep(tmp_path / "top")
    opened = len(os.listdir("/proc/self/fd"))
    assert sum(1 for _ in below(tmp_path / "top")) == 2 * DEPTH
    remove_tree(tmp_path / "top")
    assert not (tmp_path / "top").exists()
    assert len(os.listdir("/proc/self/fd")) <= opened


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (outside / "kept").touch()
    (top / "inner").mkdir(parents=True)
    (top / "inner/link").symlink_to(outside)
    (tmp_path / "way").symlink_to(outside)
    remove_tree(top)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "way")
    assert not top.exists() and (outside / "kept").exists()


def test_what_is_missing_is_an_error_or_ignored(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "nothing")
    remove_tree(tmp_path / "nothing", ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_what_cannot_be_removed_keeps_only_its_parents(tmp_path: Path) -> None:
    (tmp_path / "top/a/busy").mkdir(parents=True)
    (tmp_path / "top/b/c").mkdir(parents=True)
    (tmp_path / "top/a/file").touch()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "top/a/busy"], check=True)
    try:
        remove_tree(tmp_path / "top", ignore_errors=True)
        assert [p.name for p in (tmp_path / "top").rglob("*")] == ["a", "busy"]
        with pytest.raises(OSError):
            remove_tree(tmp_path / "top")
    finally:
        subprocess.run(["umount", tmp_path / "top/a/busy"], check=True)


def test_a_directory_moved_away_meanwhile_is_not_left_by_its_new_parent(tmp_path: Path) -> None:
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "top/c").mkdir()
    (tmp_path / "other/kept").mkdir(parents=True)
    seen = []
    for entry in below(tmp_path / "top"):
        seen.append(entry.name)
        if entry.name == "b":
            (tmp_path / "top/a").rename(tmp_path / "other/a")
    assert "kept" not in seen
