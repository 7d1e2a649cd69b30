"""Archives: our own, other tools', and bad ones."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stores import Store, archive, file, mounted, open_store

from sampan.errors import InvalidParameter
from sampan.image.config import ImageConfig, RunConfig
from sampan.image.digest import sha256
from sampan.image.reference import Reference
from sampan.progress import Progress
from sampan.store.archives import Archives
from sampan.store.images import Image


async def stream(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for position in range(0, len(data), size):
        yield data[position : position + size]


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def rootfs() -> bytes:
    return archive(file("hello", b"hello"), file("big", os.urandom(3 << 20))).getvalue()


async def make(store: Store, name: str = "app:1") -> Image:
    config = ImageConfig(config=RunConfig(cmd=["/hello"]), comment="imported")
    return await Archives(store.images).import_(stream(rootfs()), config, Reference.parse(name))


async def two_layers(store: Store) -> Image:
    from test_store_images import config_of

    base = await make(store)
    chain = await store.images.unpack(base)
    store.snapshotter.prepare("c", chain)
    with mounted(store.snapshotter, "c") as root:
        (root / "hello").unlink()
        (root / "new").write_bytes(os.urandom(2 << 20))
    layers = [*store.images.layers_of(base.id), await store.images.commit_layer("c")]
    store.snapshotter.remove("c")
    return store.images.register(config_of(layers), layers, None, [Reference.parse("two:1")])


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory, store: Store):  # type: ignore[no-untyped-def]
    with open_store(tmp_path_factory.mktemp("other"), store.snapshotter.driver) as opened:
        yield opened


async def test_import(store: Store) -> None:
    image = await make(store)
    assert image.repo_tags == ("app:1",)
    assert image.config.config.cmd == ["/hello"]
    assert image.config.os == "linux"
    assert image.config.history[0].comment == "imported"
    assert image.size == (3 << 20) + 5
    packed = await Archives(store.images).import_(stream(gzip.compress(rootfs())), ImageConfig())
    assert packed.repo_tags == ()
    with pytest.raises(InvalidParameter):
        await Archives(store.images).import_(stream(b"no tar" * 1000), ImageConfig())


async def test_save_and_load(store: Store, other: Store) -> None:
    image = await two_layers(store)
    base = store.images.get("app:1")
    names = [Reference.parse("two:1"), Reference.parse("127.0.0.1:5000/x/two:latest")]
    wanted = [(image, names), (base, [Reference.parse("app:1")])]
    data = await collect(Archives(store.images).save(wanted))
    assert data == await collect(Archives(store.images).save(wanted))
    lines: list[Progress] = []
    loaded = await Archives(other.images).load(stream(data), lines.append)
    assert [found.id for found in loaded] == [image.id, base.id]
    assert loaded[0].repo_tags == ("127.0.0.1:5000/x/two:latest", "two:1")
    assert "Loading layer" in {line.status for line in lines}
    with mounted(other.snapshotter, (await other.images.unpack(loaded[0])) or "") as root:
        assert sorted(os.listdir(root / ".")) == ["big", "new"]
    lines.clear()
    again = await Archives(other.images).load(stream(gzip.compress(data, 1)), lines.append)
    assert "Already exists" in {line.status for line in lines}
    assert [found.id for found in again] == [image.id, base.id]
    assert len(other.images.list()) == 2


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
async def test_interchange_with_skopeo(store: Store, other: Store, kind: str) -> None:
    image = await two_layers(store)
    ours, theirs = store.state / "ours.tar", store.state / "theirs.tar"
    saved = Archives(store.images).save([(image, [Reference.parse("two:1")])])
    ours.write_bytes(await collect(saved))
    name = "two:1" if kind == "docker-archive" else ""
    source = f"docker-archive:{ours}:two:1"
    if kind == "oci-archive":
        unpacked = store.state / "layout"
        unpacked.mkdir()
        run("tar", "-C", unpacked, "-xf", ours)
        source = f"oci:{unpacked}"
    target = f"{kind}:{theirs}:{name or 'two:1'}"
    run("skopeo", "copy", "-q", source, target)
    (loaded,) = await Archives(other.images).load(stream(theirs.read_bytes()))
    assert loaded.id == image.id
    assert loaded.repo_tags == ("two:1",)


@pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
async def test_umoci_reads_our_layout(store: Store) -> None:
    image = await two_layers(store)
    layout, bundle = store.state / "layout", store.state / "bundle"
    layout.mkdir()
    data = await collect(Archives(store.images).save([(image, [Reference.parse("two:1")])]))
    (store.state / "two.tar").write_bytes(data)
    run("tar", "-x", "-C", layout, "-f", store.state / "two.tar")
    run("umoci", "unpack", "--image", f"{layout}:1", bundle)
    assert sorted(os.listdir(bundle / "rootfs")) == ["big", "new"]


@pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
async def test_we_read_what_umoci_makes(store: Store) -> None:
    layout, packed = store.state / "layout", store.state / "packed.tar"
    (store.state / "new").write_bytes(b"inserted")
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:9")
    run("umoci", "insert", "--image", f"{layout}:9", store.state / "new", "/d/new")
    run("umoci", "config", "--image", f"{layout}:9", "--config.cmd", "/d/new")
    run("tar", "-C", layout, "-cf", packed, ".")
    index = json.loads((layout / "index.json").read_text())
    (loaded,) = await Archives(store.images).load(stream(packed.read_bytes()))
    assert loaded.manifest is not None
    assert loaded.manifest.digest == index["manifests"][0]["digest"]
    assert loaded.config.config.cmd == ["/d/new"]
    store.snapshotter.view("v", await store.images.unpack(loaded))
    with mounted(store.snapshotter, "v") as root:
        assert (root / "d" / "new").read_bytes() == b"inserted"


def _edit(data: bytes, change) -> bytes:  # type: ignore[no-untyped-def]
    """The archive with ``change(name, content)`` applied to its members; None removes one."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            source = old.extractfile(member)
            assert source is not None
            content = change(member.name, source.read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return out.getvalue()


async def test_bad_archives_leave_nothing(store: Store, other: Store) -> None:
    image = await make(store)
    good = await collect(Archives(store.images).save([(image, [Reference.parse("app:1")])]))
    layer = image.config.rootfs.diff_ids[0].partition(":")[2]

    def flip(name: str, content: bytes) -> bytes | None:
        return content[:-1] + bytes([content[-1] ^ 1]) if name.endswith(layer) else content

    def without(ending: str):  # type: ignore[no-untyped-def]
        return lambda name, content: None if name.endswith(ending) else content

    def without_index(name: str, content: bytes) -> bytes | None:
        return None if name in ("index.json", "manifest.json") else content

    bad = {
        "flipped": _edit(good, flip),
        "no layer": _edit(good, without(layer)),
        "no config": _edit(good, without(image.id.partition(":")[2])),
        "no index": _edit(good, without_index),
        "cut": good[: len(good) // 2],
        "noise": os.urandom(5000),
        "empty": b"",
        "cut gzip": gzip.compress(good)[:2000],
        "bad json": archive(file("manifest.json", b"{")).getvalue(),
        "bad layers": archive(
            file(
                "c.json",
                b'{"rootfs":{"type":"layers","diff_ids":["' + sha256(b"x").encode() + b'"]}}',
            ),
            file("manifest.json", json.dumps([{"Config": "c.json", "Layers": []}]).encode()),
        ).getvalue(),
    }
    for name, data in bad.items():
        with pytest.raises(InvalidParameter, match=r"cannot load the archive|invalid"):
            await Archives(other.images).load(stream(data))
            pytest.fail(name)
    # Text longer than a header, as of a file named by mistake.
    with pytest.raises(InvalidParameter, match="cannot load the archive: not a tar"):
        await Archives(other.images).load(stream(b"root:x:0:0:root:/root:/bin/bash\n" * 40))
    assert other.images.list() == []
    await other.images.gc()
    assert list(other.content.walk()) == []
    assert os.listdir(other.state / "ingest") == []


async def test_a_stream_that_breaks_off(store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield rootfs()[:100_000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await Archives(store.images).load(broken())
    with pytest.raises(ConnectionResetError):
        await Archives(store.images).import_(broken(), ImageConfig())
    assert os.listdir(store.state / "ingest") == []


async def test_the_legacy_layout(store: Store, tmp_path: Path) -> None:
    """``docker save`` before version 25: layers in folders, equal ones as links."""
    tar = rootfs()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [sha256(tar)] * 2},
        }
    ).encode()
    hex = sha256(config).partition(":")[2]
    from stores import folder, link

    data = archive(
        *(folder("aaa"), file("aaa/VERSION", b"1.0"), file("aaa/layer.tar", tar), folder("bbb")),
        *(link("bbb/layer.tar", "../aaa/layer.tar"), file(f"{hex}.json", config)),
        file(
            "manifest.json",
            json.dumps(
                [
                    {
                        "Config": f"{hex}.json",
                        "RepoTags": ["old:1"],
                        "Layers": ["aaa/layer.tar", "bbb/layer.tar"],
                    }
                ]
            ).encode(),
        ),
    ).getvalue()
    (image,) = await Archives(store.images).load(stream(data))
    assert image.id == sha256(config)
    assert image.repo_tags == ("old:1",)
