"""Paths that must not lead out of their root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.linux.openat2 import make_directories, make_file, open_in_root, openat2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "a/b").mkdir(parents=True)
    (inside / "file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    return inside


def fd_of(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY)


def where(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "target", ["/file", "../file", "../../../../file", "/a/../../file", "a/b/../../../file"]
)
def test_links_resolve_inside(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    assert where(open_in_root(fd_of(root), "link")) == str(root / "file")
    assert where(open_in_root(fd_of(root), target)) == str(root / "file")


def test_magic_links_are_refused(root: Path) -> None:
    with pytest.raises(OSError, match="self/exe"):
        openat2(fd_of(Path("/proc")), "self/exe", os.O_PATH, resolve=0x02)


def test_directories_are_made(root: Path) -> None:
    assert where(make_directories(fd_of(root), "/new/deep/er")) == str(root / "new/deep/er")
    assert where(make_directories(fd_of(root), "a/b")) == str(root / "a/b")
    assert where(make_directories(fd_of(root), "/")) == str(root)


@pytest.mark.parametrize("prefix", ["", "/", "../", "../../../"])
def test_dangling_links_are_made_inside(root: Path, prefix: str) -> None:
    (root / "link").symlink_to(f"{prefix}x/y")
    assert where(make_directories(fd_of(root), "link/z")) == str(root / "x/y/z")
    assert where(make_file(fd_of(root), "link/f")) == str(root / "x/y/f")
    (root / "direct").symlink_to(f"{prefix}p/q")
    assert where(make_file(fd_of(root), "direct")) == str(root / "p/q")
    assert sorted(path.name for path in root.parent.iterdir()) == ["outside", "root"]


def test_files_in_the_way(root: Path) -> None:
    with pytest.raises(NotADirectoryError):
        make_directories(fd_of(root), "file/x")
    with pytest.raises(NotADirectoryError):
        make_directories(fd_of(root), "file")


def test_loops_end(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    with pytest.raises(OSError, match=r"(?i)symbolic links"):
        make_directories(fd_of(root), "one/x")
