"""The snapshotters do the same with the same layers, and what GNU tar would do."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from stores import Store, archive, file, folder, link, listing, mounted, open_store

from sampan.errors import Conflict, InvalidParameter, NotFound, Unsupported
from sampan.image import tar
from sampan.image.layer import changes, write_diff
from sampan.image.tar import Entry
from sampan.linux.mount import detached
from sampan.linux.openat2 import open_in_root
from sampan.store.check import check


def read(store: Store, key: str) -> dict[str, str]:
    """Path → what is there, in a word."""
    found: dict[str, str] = {}
    with mounted(store.snapshotter, key) as root:
        for directory, names, files in os.walk(root):
            for name in [*names, *files]:
                path = Path(directory, name)
                info = path.lstat()
                shown = "dir"
                if stat.S_ISLNK(info.st_mode):
                    shown = f"-> {os.readlink(path)}"
                elif stat.S_ISREG(info.st_mode):
                    shown = path.read_text()
                elif not stat.S_ISDIR(info.st_mode):
                    shown = "special"
                found[str(path.relative_to(root))] = shown
    return found


def test_a_snapshot_on_one_that_is_still_written(store: Store) -> None:
    snapshots = store.snapshotter
    snapshots.apply("sha256:1", None, archive(folder("etc"), file("etc/a", b"one")))
    snapshots.prepare("first", "sha256:1")
    if snapshots.driver == "plain":
        with pytest.raises(Unsupported):
            snapshots.prepare("second", "first", becomes="step")
        return
    snapshots.prepare("second", "first", becomes="step")
    with mounted(snapshots, "first") as root:
        (root / "etc/a").unlink()
        (root / "etc/b").write_text("two")
    with pytest.raises(Conflict):
        snapshots.remove("first")
    assert read(store, "second") == {"etc": "dir", "etc/b": "two"}
    snapshots.commit("step", "first")
    assert snapshots.stat("second").parent == "step"
    assert read(store, "second") == {"etc": "dir", "etc/b": "two"}
    snapshots.prepare("third", "second", becomes="next")
    snapshots.remove("third")
    snapshots.remove("second")
    snapshots.remove("step")


def test_life_cycle(store: Store) -> None:
    snapshots = store.snapshotter
    snapshots.apply("sha256:1", None, archive(folder("etc"), file("etc/a", b"one")))
    snapshots.apply("sha256:2", "sha256:1", archive(file("etc/b", b"two")))
    snapshots.apply("sha256:2", "sha256:1", archive(file("etc/c", b"not again")))
    snapshots.warm("sha256:2")
    snapshots.prepare("container", "sha256:2")
    assert read(store, "container") == {"etc": "dir", "etc/a": "one", "etc/b": "two"}
    with mounted(snapshots, "container") as root:
        (root / "etc/a").unlink()
        (root / "etc/c").write_text("three")
    assert read(store, "container") == {"etc": "dir", "etc/b": "two", "etc/c": "three"}
    with pytest.raises(Conflict):
        snapshots.remove("sha256:2")
    with pytest.raises(Conflict):
        snapshots.prepare("container", None)
    with pytest.raises(Conflict):
        snapshots.prepare("x", "container")
    with pytest.raises(NotFound):
        snapshots.prepare("x", "nowhere")
    snapshots.commit("step", "container")
    assert snapshots.stat("step").kind == "committed"
    assert snapshots.stat("step").parent == "sha256:2"
    snapshots.link("sha256:3", "step")
    snapshots.prepare("next", "sha256:3")
    with mounted(snapshots, "next") as root:
        (root / "etc/d").write_text("four")
    assert read(store, "next") == {"etc": "dir", "etc/b": "two", "etc/c": "three", "etc/d": "four"}
    snapshots.remove("step")
    with pytest.raises(Conflict):
        snapshots.remove("sha256:3")
    snapshots.remove("next")
    snapshots.remove("sha256:3")
    snapshots.view("look", "sha256:2")
    assert read(store, "look") == {"etc": "dir", "etc/a": "one", "etc/b": "two"}
    with mounted(snapshots, "look") as root, pytest.raises(OSError, match="Read-only"):
        (root / "new").touch()
    snapshots.remove("look")
    snapshots.remove("sha256:2")
    snapshots.remove("sha256:1")
    with pytest.raises(NotFound):
        snapshots.stat("sha256:1")
    left = [path.name for path in (store.state / "snapshots" / snapshots.driver).iterdir()]
    assert [name for name in left if name.isdigit()] == []


def test_an_empty_parent(store: Store) -> None:
    store.snapshotter.prepare("new", None)
    with mounted(store.snapshotter, "new") as root:
        (root / "a").write_text("a")
    store.snapshotter.view("nothing", None)
    assert read(store, "new") == {"a": "a"}
    assert read(store, "nothing") == {}


def test_whiteouts_opaque_and_changes_of_kind(store: Store) -> None:
    snapshots = store.snapshotter
    base = archive(
        *(folder("d"), file("d/old", b"o"), folder("d/sub"), file("d/sub/x", b"x")),
        *(folder("e"), file("e/1", b"1"), file("e/2", b"2"), file("gone", b"g")),
        *(file("file", b"f"), link("sym", "d"), folder("dir2sym"), file("dir2sym/in", b"i")),
        *(folder("again"), file("again/a", b"a"), folder("whole"), file("whole/w", b"w")),
    )
    change = archive(
        *(file("d/new", b"n"), file("d/.wh..wh..opq"), folder("d")),
        *(file("e/.wh.1"), file(".wh.gone"), file(".wh.nothing")),
        *(folder("file"), file("file/now", b"dir"), folder("sym"), file("sym/now", b"dir")),
        *(link("dir2sym", "e"), file(".wh.again"), folder("again"), file("again/b", b"b")),
        *(file("whole/.wh..wh.aufs"), file(".wh.whole"), file("implied/deep/x", b"x")),
    )
    snapshots.apply("sha256:1", None, base)
    snapshots.apply("sha256:2", "sha256:1", change)
    snapshots.view("v", "sha256:2")
    assert read(store, "v") == {
        **{"d": "dir", "d/new": "n", "e": "dir", "e/2": "2"},
        **{"file": "dir", "file/now": "dir", "sym": "dir", "sym/now": "dir"},
        **{"dir2sym": "-> e", "again": "dir", "again/b": "b"},
        **{"implied": "dir", "implied/deep": "dir", "implied/deep/x": "x"},
    }


def test_implied_directories_keep_what_the_layer_below_says(store: Store) -> None:
    store.snapshotter.apply("sha256:1", None, archive(folder("tmp", 0o1777), folder("p", 0o700)))
    store.snapshotter.apply("sha256:2", "sha256:1", archive(file("tmp/x"), file("p/q/r")))
    with mounted(store.snapshotter, "sha256:2") as root:
        assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
        assert stat.S_IMODE((root / "p").stat().st_mode) == 0o700


def test_hard_links_within_and_across_layers(store: Store) -> None:
    snapshots = store.snapshotter
    snapshots.apply("sha256:1", None, archive(file("a", b"same"), link("b", "a", tar.HARDLINK)))
    with mounted(snapshots, "sha256:1") as root:
        assert (root / "a").stat().st_ino == (root / "b").stat().st_ino
        assert (root / "a").stat().st_nlink == 2
    snapshots.apply("sha256:2", "sha256:1", archive(link("c", "/b", tar.HARDLINK)))
    assert read(store, "sha256:2") == {"a": "same", "b": "same", "c": "same"}


def _rich_tree(root: Path) -> None:
    root.mkdir()
    (root / "dir").mkdir(mode=0o750)
    (root / "dir/setuid").write_bytes(b"#!")
    os.chown(root / "dir/setuid", 12, 34)
    (root / "dir/setuid").chmod(0o6755)
    (root / "big").write_bytes(os.urandom(300_000))
    (root / "empty").touch()
    (root / "link").symlink_to("dir/setuid")
    (root / "long").symlink_to("x" * 1500)
    (root / ("n" * 255)).write_text("long name")
    deep = root / ("p" * 100) / ("q" * 100) / ("r" * 100)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    os.link(root / "big", root / "dir/hard")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "block", 0o600 | stat.S_IFBLK, os.makedev(259, 300000))
    os.chown(root / "block", 70000, 4000000000)
    Path(os.fsdecode(os.fsencode(root) + b"/not\xff\xfeutf8")).write_bytes(b"bytes")
    with (root / "sparse").open("wb") as out:
        out.truncate(9 << 30)
        out.seek(5 << 30)
        out.write(b"middle" * 1000)
        out.seek((9 << 30) - 3)
        out.write(b"end")
    os.setxattr(root / "big", "user.note", b"\0binary\n=" * 10)
    os.setxattr(root / "dir", "trusted.t", b"1")
    os.setxattr(
        root / "dir/setuid",
        "security.capability",
        bytes.fromhex("0100000200040000000000000000000000000000"),
    )
    many = root / "many"
    many.mkdir()
    for index in range(1200):
        (many / f"file-{index:05}").write_text(str(index))
    for index, name in enumerate(("!", "+x", "-", ".a", "..b", "...", "~")):
        (many / name).write_text(str(index))
    os.utime(root / "big", ns=(1, 1234567890_123456789))
    os.utime(root / "link", ns=(1, 5_000000001), follow_symlinks=False)


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_the_tree_is_what_gnu_tar_would_extract(store: Store, format: str) -> None:
    source, reference = store.state / "source", store.state / "reference"
    _rich_tree(source)
    path = store.state / "layer.tar"
    xattrs = ["--xattrs", "--xattrs-include=*"] if format == "posix" else []
    make = [
        "tar",
        f"--format={format}",
        *xattrs,
        "-S",
        "--numeric-owner",
        "-C",
        source,
        "-cf",
        path,
        ".",
    ]
    subprocess.run(make, check=True)
    reference.mkdir()
    subprocess.run(
        ["tar", *xattrs, "--same-owner", "--numeric-owner", "-C", reference, "-xpf", path],
        check=True,
    )
    with path.open("rb") as stream:
        store.snapshotter.apply("sha256:1", None, stream)
    store.snapshotter.view("v", "sha256:1")
    with mounted(store.snapshotter, "v") as root:
        assert listing(root) == listing(reference)
        for name in ("big", "dir/hard", "dir/setuid", "empty", "many/..b"):
            assert (root / name).read_bytes() == (reference / name).read_bytes()
        with (root / "sparse").open("rb") as file_:
            assert file_.read(4096) == bytes(4096)
            file_.seek((5 << 30) - 10)
            assert file_.read(6020) == bytes(10) + b"middle" * 1000 + bytes(10)
            file_.seek((9 << 30) - 4)
            assert file_.read() == b"\0end"
        for name in ("big", "dir", "dir/setuid"):
            ours, theirs = (
                {key: os.getxattr(top / name, key) for key in os.listxattr(top / name)}
                for top in (root, reference)
            )
            assert ours == theirs


HOSTILE = {
    "dots": [file("../escape", b"x")],
    "dots inside": [file("a/../../escape", b"x")],
    "link and file through it": [link("a", "/../../../../../../etc"), file("a/../../x", b"x")],
    "hard link out": [link("a", "../../../../../../etc/passwd", tar.HARDLINK)],
    "hard link to a directory": [folder("d"), link("a", "d", tar.HARDLINK)],
    "hard link to nothing": [link("a", "nothing", tar.HARDLINK)],
    "file as a directory": [file("a", b"x"), file("a/b", b"x")],
    "loop of links": [link("a", "b"), link("b", "a"), file("a/x", b"x")],
    "dangling parent": [link("a", "nowhere"), file("a/x", b"x")],
    "whiteout of dots": [file(".wh..", b"")],
    "whiteout of nothing": [file("d/.wh.", b"")],
    "name too long": [file("x" * 256, b"x")],
    "path too long": [file("/".join(["x" * 200] * 30), b"x")],
    "impossible owner": [(Entry(b"a", uid=2**32 - 1), b"")],
    "empty link": [Entry(b"a", tar.SYMLINK)],
    "device": [Entry(b"a", tar.CHAR, major=1 << 13)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_refused_and_leave_nothing(store: Store, name: str) -> None:
    if name == "device" and store.snapshotter.driver != "erofs":
        pytest.skip("the kernel truncates the number by itself")
    with pytest.raises(InvalidParameter, match="invalid layer"):
        store.snapshotter.apply("sha256:1", None, archive(*HOSTILE[name]))
        store.snapshotter.warm("sha256:1")
    assert not (store.state / "escape").exists()


@pytest.mark.parametrize(
    "entries",
    [
        [link("etc", "/outside"), folder("outside"), file("etc/passwd", b"x")],
        [link("etc", "../../../outside"), folder("outside"), file("etc/passwd", b"x")],
        [
            folder("outside"),
            link("here", "outside"),
            link("etc", "here"),
            file("/etc/passwd", b"x"),
        ],
    ],
)
def test_links_in_the_way_lead_inside(store: Store, entries: list[Entry]) -> None:
    store.snapshotter.apply("sha256:1", None, archive(*entries))
    assert read(store, "sha256:1")["outside/passwd"] == "x"


def test_a_link_to_follow_is_replaced_not_followed(store: Store) -> None:
    victim = store.state / "victim"
    victim.write_text("safe")
    store.snapshotter.apply(
        "sha256:1", None, archive(link("a", str(victim)), file("a", b"changed"))
    )
    assert victim.read_text() == "safe"
    assert read(store, "sha256:1") == {"a": "changed"}


def test_a_hard_link_through_a_lower_layers_link_stays_inside(store: Store) -> None:
    """The lower layer's link leads to a directory of the host; the hard link may not."""
    outside = store.state / "host"
    outside.mkdir(mode=0o751)
    (outside / "secret").write_text("secret")
    snapshots = store.snapshotter
    snapshots.apply("sha256:1", None, archive(link("a", str(outside))))
    with pytest.raises(InvalidParameter):
        snapshots.apply("sha256:2", "sha256:1", archive(link("b", "a/secret", tar.HARDLINK)))
        snapshots.warm("sha256:2")
    snapshots.apply("sha256:3", "sha256:1", archive(file("a/new", b"x")))
    assert read(store, "sha256:3") == {"a": "dir", "a/new": "x"}
    with mounted(snapshots, "sha256:3") as root:
        assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755
    assert not (outside / "new").exists()


def test_overlayfs_attributes_of_a_layer_mean_nothing(store: Store) -> None:
    entry = folder("d")
    entry.xattrs = {b"trusted.overlay.opaque": b"y", b"trusted.overlay.redirect": b"/etc"}
    store.snapshotter.apply("sha256:1", None, archive(folder("d"), file("d/a", b"a")))
    store.snapshotter.apply("sha256:2", "sha256:1", archive(entry))
    store.snapshotter.prepare("c", "sha256:2")
    assert read(store, "c") == {"d": "dir", "d/a": "a"}


def test_damaged_tars(store: Store) -> None:
    good = archive(file("a", b"x" * 5000)).getvalue()
    for bad in (good[:1000], b"x" * 2000, good[:200] + b"!" + good[201:]):
        with pytest.raises(InvalidParameter):
            store.snapshotter.apply("sha256:1", None, io.BytesIO(bad))
    store.snapshotter.apply("sha256:1", None, io.BytesIO(b""))
    assert read(store, "sha256:1") == {}


def test_diff_and_back_again(store: Store) -> None:
    """A container's changes as a layer, applied on its parent, give what the container had."""
    snapshots = store.snapshotter
    snapshots.apply(
        "sha256:1",
        None,
        archive(
            *(folder("etc"), file("etc/keep", b"k"), file("etc/edit", b"e"), file("etc/rm", b"r")),
            *(folder("dir"), file("dir/a", b"a"), folder("dir/sub"), link("sym", "dir")),
            *(folder("replaced"), file("replaced/old", b"o"), file("chmod", b"c")),
        ),
    )
    snapshots.prepare("c", "sha256:1")
    with mounted(snapshots, "c") as root:
        (root / "etc/edit").write_text("edited")
        (root / "etc/rm").unlink()
        shutil.rmtree(root / "dir")
        shutil.rmtree(root / "replaced")
        (root / "replaced").mkdir()
        (root / "replaced/new").write_text("n")
        (root / "chmod").chmod(0o4700)
        (root / "sym").unlink()
        (root / "sym").mkdir()
        (root / "new").write_bytes(b"\0" * 600)
        os.link(root / "new", root / "new2")
        os.setxattr(root / "new", "user.x", b"y")
        before = [line for line in listing(root)]
    out = io.BytesIO()
    write_diff(snapshots.upper("c"), out)
    again = io.BytesIO()
    write_diff(snapshots.upper("c"), again)
    assert out.getvalue() == again.getvalue()
    out.seek(0)
    snapshots.apply("sha256:2", "sha256:1", out)
    with mounted(snapshots, "sha256:2") as root:
        after = listing(root)
        assert os.getxattr(root / "new", "user.x") == b"y"

    def seconds(lines: list[str]) -> list[str]:
        """Times in layers are whole seconds."""
        return [re.sub(r"\.\d{10}", "", line) for line in lines]

    assert seconds(after) == seconds(before)
    names = [os.fsdecode(e.name) for e in tar.entries(tar.BufferCursor(out.getvalue()))]
    assert "etc/.wh.rm" in names
    assert ".wh.dir" in names


def test_changes_as_docker_diff_lists_them(store: Store) -> None:
    snapshots = store.snapshotter
    snapshots.apply(
        "sha256:1", None, archive(folder("etc"), file("etc/edit", b"e"), file("etc/rm", b"r"))
    )
    snapshots.prepare("c", "sha256:1")
    with mounted(snapshots, "c") as root:
        (root / "etc/edit").write_text("edited")
        (root / "etc/rm").unlink()
        (root / "etc/new").mkdir()
        (root / "skip").touch()
    snapshots.view("v", "sha256:1")
    with mounted(snapshots, "v") as root:
        lower = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        found = [(c.kind, c.path) for c in changes(snapshots.upper("c"), lower, ["/skip"])]
        os.close(lower)
    assert found == [
        ("modified", "/etc"),
        ("modified", "/etc/edit"),
        ("added", "/etc/new"),
        ("deleted", "/etc/rm"),
    ]


def test_a_crash_leaves_no_directories(tmp_path: Path, store: Store) -> None:
    driver = store.snapshotter.driver
    store.snapshotter.apply("sha256:1", None, archive(file("a", b"a")))
    stray = store.state / "snapshots" / driver / "4711"
    stray.mkdir()
    store.snapshotter._records.reserve()  # type: ignore[attr-defined]
    with open_store(store.state, driver) as again:
        assert not stray.exists()
        assert read(again, "sha256:1") == {"a": "a"}
        kept = [p.name for p in (store.state / "snapshots" / driver).iterdir() if p.name.isdigit()]
        assert kept == ["1"]


def test_what_a_volatile_mount_wrote_is_there_for_the_next_mount(store: Store) -> None:
    snapshots = store.snapshotter
    snapshots.apply("sha256:1", None, archive(file("a", b"a")))
    mounts = snapshots.prepare("c", "sha256:1", volatile=True)
    for number in range(3):
        fd = detached(mounts[-1])
        try:
            Path(f"/proc/self/fd/{fd}/b").write_text(str(number))
            if snapshots.driver != "plain":
                assert "volatile" in mounts[-1].options
        finally:
            os.close(fd)
        mounts = snapshots.mounts("c", volatile=True)
    assert read(store, "c") == {"a": "a", "b": "2"}
    snapshots.commit("step", "c")
    assert read(store, "step") == {"a": "a", "b": "2"}


def test_a_released_snapshot_is_gone_before_its_files(store: Store) -> None:
    snapshots = store.snapshotter
    root = store.state / "snapshots" / snapshots.driver
    before = set(root.iterdir())
    snapshots.prepare("c", None)
    with mounted(snapshots, "c") as tree:
        (tree / "old").write_text("old")
    delete = snapshots.release("c")
    with pytest.raises(NotFound):
        snapshots.mounts("c")
    # Its number is free, and what the next one with it has is not deleted.
    snapshots.prepare("d", None)
    with mounted(snapshots, "d") as tree:
        (tree / "new").write_text("new")
    delete()
    assert read(store, "d") == {"new": "new"}
    snapshots.remove("d")
    assert set(root.iterdir()) == before
    snapshots.prepare("e", None)
    snapshots.release("e")  # and the process is killed before it has deleted anything
    assert set(root.iterdir()) != before
    with open_store(store.state, snapshots.driver):
        assert set(root.iterdir()) == before


def test_many_layers(store: Store) -> None:
    snapshots = store.snapshotter
    count = 200 if snapshots.driver != "plain" else 20
    parent = None
    for index in range(count):
        name = f"sha256:{index}"
        snapshots.apply(name, parent, archive(file("last", b"%d" % index), file(f"f{index}", b"x")))
        parent = name
    snapshots.prepare("c", parent)
    with mounted(snapshots, "c") as root:
        assert (root / "last").read_text() == str(count - 1)
        assert len(os.listdir(root)) == count + 1
        fd = open_in_root(os.open(root, os.O_RDONLY | os.O_DIRECTORY), "f7")
        os.close(fd)


@pytest.mark.parametrize("driver", ["overlay", "erofs", "plain"])
def test_directories_that_a_power_failure_took_are_made_again(tmp_path: Path, driver: str) -> None:
    with open_store(tmp_path, driver) as store:
        store.snapshotter.apply("sha256:1", None, archive(file("a", b"x")))
        store.snapshotter.prepare("c", "sha256:1")
        store.snapshotter.prepare("bare", None)
        store.snapshotter.view("v", "sha256:1")
        store.snapshotter.apply("sha256:2", "sha256:1", archive(file("b", b"z")))
        for directory in {store.snapshotter.upper(key).parent for key in ("c", "bare")}:
            shutil.rmtree(directory)
        assert len(check(store.metadata, store.images)) == 2
    with open_store(tmp_path, driver) as store:
        assert check(store.metadata, store.images) == []
        with mounted(store.snapshotter, "c") as root:
            assert (root / "a").read_bytes() == b"x"
            (root / "b").write_bytes(b"y")
        with mounted(store.snapshotter, "v") as root:
            assert os.listdir(root) == ["a"]
        for key in ("c", "bare", "v"):
            store.snapshotter.remove(key)
