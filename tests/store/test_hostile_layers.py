"""Hostile and damaged layers come as images do: each is refused with a sentence, or is read the
same way by all drivers; and the store is sound afterwards."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import Store, archive, file, folder, link, listing, mounted, open_store
from test_snapshotters import HOSTILE
from test_store_images import config_of

from sampan.errors import InvalidParameter, SampanError
from sampan.image import manifest as media
from sampan.image import tar
from sampan.image.manifest import Descriptor
from sampan.image.reference import Reference
from sampan.image.tar import Entry
from sampan.store.check import check
from sampan.store.images import LayerRef

EXAMPLES = int(os.environ.get("SAMPAN_TEST_FUZZ", "60"))


async def admit(store: Store, layer: bytes, blob: bytes | None = None) -> None:
    """Bring an image of one layer, as a pull does; then look at every file of it."""
    blob = gzip.compress(layer, mtime=0) if blob is None else blob
    images = store.images
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    async with images.attempt():
        described = Descriptor(media.OCI_LAYER_GZIP, store.content.write_bytes(blob), len(blob))
        layers = [LayerRef(diff_id, described)]
        image = await images.admit(config_of(layers), layers, None, [Reference.parse("evil:1")])
    store.snapshotter.prepare("c", await images.unpack(image))
    try:
        with mounted(store.snapshotter, "c") as root:
            for path in everything(root):
                info = path.lstat()
                if stat.S_ISREG(info.st_mode) and info.st_size < 1 << 20:
                    assert len(path.read_bytes()) == info.st_size
    finally:
        store.snapshotter.remove("c")


def everything(root: Path) -> Iterator[Path]:
    for entry in root.iterdir():
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from everything(entry)


async def forget(store: Store) -> None:
    """The store is sound, and is empty once its images are gone."""
    assert check(store.metadata, store.images) == []
    for image in store.images.list():
        store.images.delete(image.id)
    await store.images.gc()
    assert check(store.metadata, store.images) == []
    assert list(store.content.walk()) == []
    kept = {path.name for path in (store.state / "snapshots" / store.snapshotter.driver).iterdir()}
    assert kept <= {"empty"}


def raw(name: bytes, kind: bytes = b"0", size: bytes = b"0" * 11 + b"\0", **fields: bytes) -> bytes:
    """A header as it is, with a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = fields.get("mode", b"0000644\0")
    block[124:136] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    """An extended header."""
    data = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        while len(b"%d" % length) + len(key) + len(value) + 3 != length:
            length += 1
        data += b"%d %b=%b\n" % (length, key, value)
    return raw(b"pax", b"x", b"%011o\0" % len(data)) + data + bytes(-len(data) % 512)


END = bytes(1024)
SPARSE = (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s")
RAW = {
    "negative size": raw(b"a", size=b"\xff" * 12) + END,
    "huge size": raw(b"a", size=b"\x80" + b"\x7f" * 11) + END,
    "no number": raw(b"a", size=b"zzzzzzzzzzz\0") + END,
    "unknown type": raw(b"a", b"Q") + END,
    "pax of two megabytes": pax((b"comment", b"x" * (2 << 20))) + raw(b"a") + END,
    "pax without end": raw(b"p", b"x", b"%011o\0" % 20) + b"99 path=a".ljust(512, b"\0") + END,
    "pax length of nothing": raw(b"p", b"x", b"%011o\0" % 9)
    + b"0 path=a\n".ljust(512, b"\0")
    + END,
    "pax size of minus one": pax((b"size", b"-1")) + raw(b"a") + END,
    "pax path leads out": pax((b"path", b"../../../escape")) + raw(b"a") + END,
    "pax path with a zero": pax((b"path", b"a\0b")) + raw(b"a") + END,
    "pax link leads out": pax((b"linkpath", b"../../etc/passwd")) + raw(b"a", b"1") + END,
    "sparse piece beyond the end": pax(*SPARSE, (b"GNU.sparse.realsize", b"10"))
    + raw(b"a", size=b"%011o\0" % 1024)
    + b"1\n1000000\n512\n".ljust(512, b"\0")
    + bytes(512)
    + END,
    "sparse pieces of more than is there": pax(*SPARSE, (b"GNU.sparse.realsize", b"99999999"))
    + raw(b"a", size=b"%011o\0" % 1024)
    + b"1\n0\n9000000\n".ljust(512, b"\0")
    + bytes(512)
    + END,
    "sparse map of a million": pax(*SPARSE, (b"GNU.sparse.realsize", b"10"))
    + raw(b"a", size=b"%011o\0" % 512)
    + b"1000000\n".ljust(512, b"\0")
    + END,
    "cut in a header": raw(b"a")[:300],
    "cut in a file": raw(b"a", size=b"%011o\0" % 5000) + bytes(512),
    "a wrong checksum": raw(b"a")[:148] + b"0000001\0" + raw(b"a")[156:] + END,
    "no tar": b"#!/bin/sh\nexec rm -rf /\n" * 100,
}
REFUSED = {name: archive(*entries).getvalue() for name, entries in HOSTILE.items()} | RAW


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(store: Store, name: str) -> None:
    if name == "device" and store.snapshotter.driver != "erofs":
        pytest.skip("the kernel truncates the number by itself")
    with pytest.raises(InvalidParameter, match="invalid layer"):
        await admit(store, REFUSED[name])
    assert store.images.list() == []
    assert not list(store.state.glob("**/escape"))
    await forget(store)


DATA = archive(file("a", random.Random(1).randbytes(100_000))).getvalue()
PACKED = gzip.compress(DATA, mtime=0)
ZSTD = zstandard.ZstdCompressor().compress(DATA)
DAMAGED = {
    "gzip cut": PACKED[: len(PACKED) // 2],
    "gzip without its end": PACKED[:-4],
    "gzip with another checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "gzip flipped": PACKED[:60_000] + bytes([PACKED[60_000] ^ 8]) + PACKED[60_001:],
    "gzip header alone": PACKED[:10],
    "zstd cut": ZSTD[: len(ZSTD) // 2],
    "zstd flipped": ZSTD[:50_000] + bytes([ZSTD[50_000] ^ 8]) + ZSTD[50_001:],
    "other content": gzip.compress(DATA + END),
    "nothing": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_blobs_that_are_not_what_the_image_says(store: Store, name: str) -> None:
    with pytest.raises(SampanError, match=r"damaged|has digest .* where its image says"):
        await admit(store, DATA, DAMAGED[name])
    assert store.images.list() == []
    await forget(store)


STRANGE = {
    "absolute names": [file("/a", b"x"), file("//b/c", b"y"), link("/l", "/a", tar.HARDLINK)],
    "dots that stay inside": [folder("d"), file("d/../e", b"x"), file("./f/./g", b"y")],
    "links that lead out of everything": [link("l", "/../../../etc/passwd"), link("m", "..")],
    "duplicates": [file("a", b"first"), folder("d"), file("a", b"second"), file("d", b"a file")],
    "duplicates of kinds": [link("a", "b"), file("a", b"x"), folder("a"), file("a/b", b"in it")],
    "device nodes": [
        Entry(b"null", tar.CHAR, 0o666, major=1, minor=3),
        Entry(b"disk", tar.BLOCKDEV, 0o600, major=8, minor=300),
        Entry(b"fifo", tar.FIFO, 0o600),
    ],
    "long names": [file("x" * 255, b"1"), file("/".join(["y" * 100] * 30), b"2")],
    "names that are no text": [file(b"\xff\xfe\x01", b"1"), file(b"new\nline", b"2")],
    "set-user-ID": [(Entry(b"su", mode=0o6755, uid=7, gid=8), b"x")],
    "times before time": [(Entry(b"old", mtime=-(10**12)), b"x")],
}


@pytest.mark.parametrize("blob", ["gzip", "plain"])
@pytest.mark.parametrize("missing", [1, 300, 511])
async def test_a_tar_without_its_last_padding(store: Store, missing: int, blob: str) -> None:
    """As umoci and the docker CLI end theirs."""
    content = os.urandom(512 * 3 - missing)
    layer = archive(file("a", b"first"), file("z", content)).getvalue()[: -1024 - missing]
    assert layer.endswith(content)
    await admit(store, layer, layer if blob == "plain" else None)
    store.snapshotter.prepare("c", await store.images.unpack(store.images.get("evil:1")))
    with mounted(store.snapshotter, "c") as root:
        assert (root / "z").read_bytes() == content
    store.snapshotter.remove("c")
    await forget(store)


@pytest.mark.parametrize("name", STRANGE)
async def test_strange_but_right(name: str, tmp_path: Path) -> None:
    seen = {}
    for driver in ("overlay", "plain", "erofs"):
        (tmp_path / driver).mkdir()
        with open_store(tmp_path / driver, driver) as store:
            await admit(store, archive(*STRANGE[name]).getvalue())
            chain = await store.images.unpack(store.images.get("evil:1"))
            store.snapshotter.prepare("c", chain)
            with mounted(store.snapshotter, "c") as root:
                seen[driver] = [line for line in listing(root) if " d " not in line]
            store.snapshotter.remove("c")
            await forget(store)
    assert seen["overlay"] == seen["plain"] == seen["erofs"]


BASE = bytearray(
    archive(
        folder("d"),
        file("d/a", b"a" * 700),
        (Entry(b"d/x", xattrs={b"user.k": b"v" * 40}), b"x"),
        link("d/l", "a"),
        link("d/h", "d/a", tar.HARDLINK),
        file("d/.wh.gone", b""),
        file("/".join(["long" * 20] * 4), b"long"),
        Entry(b"n", tar.CHAR, 0o666, major=1, minor=3),
        (Entry(b"late", mtime=1_700_000_000_123_456_789), b"z"),
    ).getvalue()
)
HEADERS = [at for at in range(0, len(BASE) - 1024, 512) if BASE[at + 257 : at + 262] == b"ustar"]
CHANGE = st.tuples(
    st.sampled_from(HEADERS),
    st.integers(0, 511),
    st.sampled_from([0, 1, 0x20, 0x2E, 0x2F, 0x30, 0x37, 0x39, 0x7F, 0x80, 0xFF])
    | st.integers(0, 255),
    st.booleans(),
)


def changed(changes: list[tuple[int, int, int, bool]], cut: int | None) -> bytes:
    """The base with some bytes of headers changed; mostly with right checksums again."""
    data = bytearray(BASE)
    for at, offset, value, right in changes:
        data[at + offset] = value
        if right:
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data if cut is None else data[:cut])


@pytest.mark.parametrize("driver", ["overlay", "erofs"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(CHANGE, min_size=1, max_size=6),
    cut=st.none() | st.integers(0, len(BASE)),
)
async def test_fuzzed(
    driver: str, changes: list[tuple[int, int, int, bool]], cut: int | None
) -> None:
    with tempfile.TemporaryDirectory(prefix="smp") as folder, open_store(Path(folder), driver) as s:
        try:
            await admit(s, changed(changes, cut))
        except InvalidParameter as error:
            assert str(error).startswith("invalid layer: ")
        await forget(s)
