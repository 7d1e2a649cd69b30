"""Copies of trees: as tars in and out, and into volumes."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.archive import _absolute, _base, go_mode
from sampan.engine.copyup import fill
from sampan.engine.tree_tar import pack
from sampan.engine.tree_untar import Policy, change_mode, unpack
from sampan.errors import InvalidParameter

DIRECTORY = os.O_PATH | os.O_DIRECTORY


def make_tree(root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "file").write_bytes(b"content" * 1000)
    os.link(root / "d" / "file", root / "d" / "link")
    (root / "d" / "sym").symlink_to("/etc/passwd")
    os.mkfifo(root / "d" / "sub" / "fifo")
    (root / "d" / "sub" / os.fsdecode(b"\xff name")).write_text("x")
    (root / "d" / ("n" * 120)).write_text("long")
    os.chmod(root / "d" / "file", 0o4751)
    os.chown(root / "d" / "file", 12345, 54321)
    os.utime(root / "d", (1, 2))


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        target = path.readlink() if path.is_symlink() else None
        found[str(path.relative_to(root))] = (
            *(info.st_mode, info.st_uid, info.st_gid, info.st_nlink if not path.is_dir() else 0),
            *(int(info.st_mtime), content, target),
        )
    return found


def packed(root: Path, name: str, shown: str) -> bytes:
    fd = os.open(root, DIRECTORY)
    try:
        return b"".join(pack(fd, name, shown))
    finally:
        os.close(fd)


def unpacked(data: bytes, root: Path, directory: str = "/", policy: Policy = Policy()) -> None:  # noqa: B008
    fd = os.open(root, DIRECTORY)
    try:
        unpack(io.BytesIO(data), fd, directory, policy)
    finally:
        os.close(fd)


def test_out_and_in_again(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    make_tree(source)
    unpacked(packed(source, "d", "d"), target)
    assert facts(target) == facts(source)


def test_tarfile_reads_it(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path, "d", "new"))) as tar:
        names = tar.getnames()
        assert names[0] == "new" and "new/file" in names
        assert tar.getmember("new/link").linkname == "new/file"


@pytest.mark.parametrize(("shown", "first"), [("/", "/"), ("", "d")])
def test_names_at_the_root(tmp_path: Path, shown: str, first: str) -> None:
    make_tree(tmp_path)
    data = packed(tmp_path, ".", shown)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert data[:100].rstrip(b"\0").decode().rstrip("/") == first.rstrip("/")
        assert any(name.strip("/") == "d/file" for name in tar.getnames())


def tar_of(*members: tuple[str, bytes, str]) -> bytes:
    """``(name, kind, content or link)`` members as a tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content.encode()))
            else:
                info.linkname = content
                info.mode = 0o755
                tar.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("../escape", tarfile.REGTYPE, "x")],
        [("a/../../escape", tarfile.REGTYPE, "x")],
        [("link", tarfile.LNKTYPE, "../escape")],
        [("link", tarfile.LNKTYPE, "nosuch")],
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "escape").write_text("old")
    with pytest.raises(InvalidParameter):
        unpacked(tar_of(*members), root)
    assert (tmp_path / "escape").read_text() == "old"


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    data = tar_of(
        ("abs", tarfile.SYMTYPE, str(outside)),
        ("abs/file", tarfile.REGTYPE, "x"),
        ("up", tarfile.SYMTYPE, "../../../.."),
        ("up/file", tarfile.REGTYPE, "y"),
    )
    unpacked(data, root)
    assert list(outside.iterdir()) == []
    assert (root / "file").read_text() == "y"
    assert (root / str(outside).lstrip("/") / "file").read_text() == "x"


def test_strict_keeps_kinds(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("x")
    strict = Policy(strict=True)
    with pytest.raises(InvalidParameter, match="cannot overwrite directory"):
        unpacked(tar_of(("dir", tarfile.REGTYPE, "x")), tmp_path, policy=strict)
    with pytest.raises(InvalidParameter, match="cannot overwrite non-directory"):
        unpacked(tar_of(("file", tarfile.DIRTYPE, "")), tmp_path, policy=strict)
    unpacked(tar_of(("dir", tarfile.REGTYPE, "new")), tmp_path)
    assert (tmp_path / "dir").read_text() == "new"


def test_owner_is_replaced(tmp_path: Path) -> None:
    unpacked(tar_of(("f", tarfile.REGTYPE, "x")), tmp_path, policy=Policy(owner=(77, 88)))
    info = (tmp_path / "f").stat()
    assert (info.st_uid, info.st_gid) == (77, 88)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("garbage")
    try:
        unpacked(data, root)
    except InvalidParameter:
        pass


def test_volume_is_filled(tmp_path: Path) -> None:
    image, volume = tmp_path / "image", tmp_path / "volume" / "_data"
    image.mkdir()
    volume.mkdir(parents=True)
    make_tree(image)
    root = os.open(image, DIRECTORY)
    fill(volume, root, "/d", in_place=False)
    fill(volume, root, "/nosuch", in_place=False)
    with pytest.raises(InvalidParameter, match="cannot mount volume over existing file"):
        fill(volume, root, "/d/file", in_place=False)
    os.close(root)
    assert facts(volume) == facts(image / "d")
    assert int(volume.stat().st_mtime) == 2


@pytest.mark.parametrize(
    ("path", "absolute", "base"),
    [
        ("/", "/", "/"),
        ("", "/", "/"),
        ("etc", "/etc", "etc"),
        ("/etc/", "/etc/", "etc"),
        ("/etc/.", "/etc/.", "."),
        ("/a/../b", "/b", "b"),
        ("../../x", "/x", "x"),
    ],
)
def test_paths(path: str, absolute: str, base: str) -> None:
    assert (_absolute(path), _base(_absolute(path))) == (absolute, base)


def test_go_modes() -> None:
    assert go_mode(stat.S_IFDIR | 0o755) == 1 << 31 | 0o755
    assert go_mode(stat.S_IFREG | stat.S_ISUID | 0o711) == 1 << 23 | 0o711
    assert go_mode(stat.S_IFCHR | 0o600) == 1 << 26 | 1 << 21 | 0o600


def test_modes_do_not_follow_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    victim.chmod(0o600)
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "fifo")
    parent = os.open(tmp_path, DIRECTORY)
    change_mode(parent, "link", 0o666)
    change_mode(parent, "fifo", 0o604)
    os.close(parent)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "fifo").stat().st_mode) == 0o604


def test_file_replaced_while_packing_is_left_out(tmp_path: Path) -> None:
    """Between looking at an entry and opening it, it becomes a pipe: nobody waits for a writer."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"x" * (3 << 20))
    parent = os.open(tmp_path, DIRECTORY)
    stream = pack(parent, ".", "")
    data = next(stream)
    (tmp_path / "b").unlink()
    os.mkfifo(tmp_path / "b")
    data += b"".join(stream)
    os.close(parent)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        kinds = {member.name: member.type for member in tar.getmembers()}
    assert kinds == {"a": tarfile.REGTYPE, "b": tarfile.FIFOTYPE}
