"""Mount options and detached mounts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from sampan.linux import mount
from sampan.linux.mount import parse_options

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Described(NamedTuple):
    type: str
    source: str
    options: list[str]


def names_in(mounted: int) -> list[str]:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mounted)
    try:
        return sorted(os.listdir(directory))
    finally:
        os.close(directory)


def test_options_are_sorted() -> None:
    options = parse_options(["ro", "nosuid", "rbind", "rprivate", "size=5m", "noatime", "defaults"])
    assert options.set == (
        mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOATIME
    )
    assert options.clear == mount.MOUNT_ATTR_ATIME
    assert options.bind and options.recursive
    assert (options.propagation, options.recursive_propagation) == (mount.MS_PRIVATE, True)
    assert options.data == ["size=5m"]


def test_later_options_win() -> None:
    assert parse_options(["ro", "rw"])[:2] == (0, mount.MOUNT_ATTR_RDONLY)
    assert parse_options(["rw", "ro"])[:2] == (mount.MOUNT_ATTR_RDONLY, 0)
    assert parse_options(["rro"]).recursive_set == mount.MOUNT_ATTR_RDONLY


@needs_root
def test_a_detached_overlay(tmp_path: Path) -> None:
    for name in ("one", "t:wo", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/a").write_text("1")
    (tmp_path / "t:wo/b").write_text("2")
    escaped = str(tmp_path / "t:wo").replace(":", "\\:")
    lower = f"lowerdir={tmp_path}/one:{escaped}"
    fd = mount.detached(
        Described(
            "overlay", "overlay", [lower, f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
        )
    )
    try:
        assert names_in(fd) == ["a", "b"]
        made = os.open("c", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(made)
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    finally:
        os.close(fd)
    assert (tmp_path / "upper/c").exists()


@needs_root
def test_a_detached_bind_is_read_only(tmp_path: Path) -> None:
    fd = mount.detached(Described("bind", str(tmp_path), ["rbind", "ro"]))
    try:
        with pytest.raises(OSError, match="Read-only"):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    finally:
        os.close(fd)


@needs_root
def test_stacked_mounts(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/a").write_text("1")
    fd = mount.stacked(
        [
            Described("bind", str(tmp_path / "lower"), ["bind", "ro"]),
            Described(
                "overlay",
                "overlay",
                ["lowerdir={0}", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"],
            ),
        ]
    )
    try:
        assert names_in(fd) == ["a"]
        os.unlink("a", dir_fd=fd)
    finally:
        os.close(fd)
    assert (tmp_path / "lower/a").exists()
    assert (tmp_path / "upper/a").is_char_device()


@needs_root
def test_many_layers_by_the_mount_call(tmp_path: Path) -> None:
    layers = [tmp_path / f"{number}/fs" for number in range(100)]
    for number, layer in enumerate(layers):
        layer.mkdir(parents=True)
        (layer / f"f{number}").touch()
    data = f"ro,lowerdir={':'.join(map(str, layers))},index=off"
    assert len(data) > 4096
    fd = mount._by_mount_call("overlay", "overlay", data, OSError("refused"))
    try:
        assert len(names_in(fd)) == 100
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="No such file"):
        mount._by_mount_call("overlay", "overlay", "lowerdir=/no:/none", OSError("refused"))


@needs_root
def test_by_the_mount_call(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/a").write_text("1")
    data = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    fd = mount._by_mount_call("overlay", "overlay", data, OSError("refused"))
    try:
        assert names_in(fd) == ["a"]
    finally:
        os.close(fd)


@needs_root
def test_the_kernel_explains(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nosuchoption"):
        mount.new_filesystem("tmpfs", "tmpfs", ["nosuchoption=1"])
    with pytest.raises(OSError, match="file system nosuchtype"):
        mount.new_filesystem("nosuchtype")
