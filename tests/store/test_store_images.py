"""The image database: names, sharing, garbage."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time

import pytest
from stores import Store, archive, file, mounted

from sampan.errors import InvalidParameter, NotFound
from sampan.image import config as image_config
from sampan.image import manifest as media
from sampan.image.config import ImageConfig, RootFS
from sampan.image.digest import sha256
from sampan.image.manifest import Descriptor, Manifest
from sampan.image.reference import Reference
from sampan.progress import Progress
from sampan.store.content import DigestMismatch
from sampan.store.images import Image, LayerRef
from sampan.store.snapshots import Usage


def add_layer(store: Store, tar: bytes, *, compress: bool = True) -> LayerRef:
    data = gzip.compress(tar, mtime=0) if compress else tar
    kind = media.OCI_LAYER_GZIP if compress else media.OCI_LAYER
    digest = store.content.write_bytes(data)
    return LayerRef(sha256(tar), Descriptor(kind, digest, len(data)))


def config_of(layers: list[LayerRef], author: str = "") -> bytes:
    return image_config.encode(
        ImageConfig(
            architecture="amd64",
            os="linux",
            author=author,
            created="2026-01-02T03:04:05Z",
            rootfs=RootFS(diff_ids=[layer.diff_id for layer in layers]),
        )
    )


def add_image(store: Store, *names: str, content: bytes = b"hello", author: str = "") -> Image:
    layers = [add_layer(store, archive(file("hello", content)).getvalue())]
    references = [Reference.parse(name) for name in names]
    return store.images.register(config_of(layers, author), layers, None, references)


def test_finding_by_name_id_and_prefix(store: Store) -> None:
    image = add_image(store, "app:1", "127.0.0.1:5000/team/app:2")
    images = store.images
    hex = image.id.partition(":")[2]
    for name in ("app:1", "docker.io/library/app:1", image.id, hex, hex[:12], f"sha256:{hex[:8]}"):
        assert images.get(name).id == image.id
    assert images.get(Reference.parse("app:1")).repo_tags == ("127.0.0.1:5000/team/app:2", "app:1")
    for name in ("app", "app:2", "nothing", "f" * 64, "sha256:" + "0" * 64):
        with pytest.raises(NotFound, match="No such image"):
            images.get(name)
    with pytest.raises(InvalidParameter):
        images.get("Not A Name")
    other = add_image(store, author="other")
    common = ""
    for ours, theirs in zip(hex, other.id.partition(":")[2], strict=True):
        if ours != theirs:
            break
        common += ours
    if common:
        with pytest.raises(InvalidParameter, match="ambiguous"):
            images.get(common)


def test_tags_move_and_digests_stay(store: Store) -> None:
    images = store.images
    first = add_image(store, "app:1")
    second = add_image(store, author="second")
    assert images.tag(second.id, Reference.parse("app:1")) == first.id
    assert images.tag(second.id, Reference.parse("app:1")) is None
    assert images.get(first.id).repo_tags == ()
    digest = "sha256:" + "d" * 64
    images.add_repo_digest(second.id, Reference.parse(f"app@{digest}"))
    assert images.get(f"app@{digest}").id == second.id
    assert images.get(f"app:9@{digest}").repo_digests == (f"app@{digest}",)
    assert images.untag(Reference.parse("app:1")) == second.id
    assert images.untag(Reference.parse(f"app@{digest}")) == second.id
    with pytest.raises(NotFound):
        images.untag(Reference.parse("app:1"))
    with pytest.raises(NotFound):
        images.tag("sha256:" + "0" * 64, Reference.parse("app:1"))
    assert {image.id for image in images.list()} == {first.id, second.id}


def test_registering_checks_what_it_is_told(store: Store) -> None:
    layer = add_layer(store, archive(file("a", b"a")).getvalue())
    missing = LayerRef("sha256:" + "1" * 64, Descriptor(media.OCI_LAYER, "sha256:" + "2" * 64, 1))
    with pytest.raises(InvalidParameter, match="disagree"):
        store.images.register(config_of([layer]), [], None, [])
    with pytest.raises(InvalidParameter):
        store.images.register(b"{nonsense", [], None, [])
    with pytest.raises(NotFound):
        store.images.register(config_of([missing]), [missing], None, [])
    assert store.images.list() == []


async def test_unpacking_is_shared_and_reports(store: Store) -> None:
    image = add_image(store, "app:1", content=b"x" * 100_000)
    applied = 0
    lock = threading.Lock()
    original = store.snapshotter.apply

    def apply(*args: object) -> None:
        nonlocal applied
        with lock:
            applied += 1
        time.sleep(0.05)  # Give the others time to come.
        original(*args)  # type: ignore[arg-type]

    store.snapshotter.apply = apply  # type: ignore[method-assign, assignment]
    lines: list[Progress] = []
    chains = await asyncio.gather(*(store.images.unpack(image, lines.append) for _ in range(5)))
    assert applied == 1
    assert set(chains) == {image.config.rootfs.diff_ids[0]}
    assert {line.status for line in lines} == {"Extracting", "Pull complete"}
    assert store.images.get(image.id).size == 100_000
    store.snapshotter.prepare("c", chains[0])
    with mounted(store.snapshotter, "c") as root:
        assert (root / "hello").read_bytes() == b"x" * 100_000


async def test_an_image_without_layers(store: Store) -> None:
    image = store.images.register(config_of([]), [], None, [Reference.parse("scratch:1")])
    assert await store.images.unpack(image) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
async def test_a_wrong_layer_is_refused_and_nothing_is_left(store: Store, damage: str) -> None:
    tar = archive(file("hello", bytes(range(256)) * 100)).getvalue()
    data = gzip.compress(tar, mtime=0)
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data = data[:100] + bytes([data[100] ^ 0x55]) + data[101:]
    else:
        data = gzip.compress(archive(file("other", b"x")).getvalue(), mtime=0)
    digest = store.content.write_bytes(data)
    layer = LayerRef(sha256(tar), Descriptor(media.OCI_LAYER_GZIP, digest, len(data)))
    with pytest.raises((DigestMismatch, InvalidParameter)):
        await store.images.admit(config_of([layer]), [layer], None, [Reference.parse("a:1")])
    assert store.images.list() == []
    with pytest.raises(NotFound):
        store.snapshotter.stat(layer.diff_id)
    assert await store.images.gc() > 0
    assert list(store.content.walk()) == []


async def test_garbage_goes_and_what_is_reached_stays(store: Store) -> None:
    images, snapshots = store.images, store.snapshotter
    shared = add_layer(store, archive(file("shared", b"s")).getvalue())
    own = add_layer(store, archive(file("own", b"o")).getvalue())
    manifest = media.encode(
        Manifest(
            schema_version=2,
            config=Descriptor(media.OCI_CONFIG, sha256(config_of([shared])), 1),
            layers=(shared.blob,),
        )
    )
    one = images.register(config_of([shared]), [shared], manifest, [Reference.parse("one:1")])
    two = images.register(config_of([shared, own]), [shared, own], None, [Reference.parse("two:1")])
    chain = await images.unpack(two)
    assert chain is not None
    stray = store.content.write_bytes(b"stray")
    with images.lease():
        held = store.content.write_bytes(b"held")
        found = store.content.has(stray)
        assert found
        await images.gc()
        assert store.content.has(held)
        assert store.content.has(stray)
    assert await images.gc() > 0
    assert not store.content.has(held)
    assert one.manifest is not None
    kept = {one.id, two.id, shared.blob.digest, own.blob.digest, one.manifest.digest}
    assert set(store.content.walk()) == kept
    snapshots.prepare("container", chain)
    assert images.delete(two.id) == ["two:1"]
    await images.gc()
    assert set(store.content.walk()) == kept - {two.id, own.blob.digest}
    assert snapshots.stat(chain).kind == "committed"
    snapshots.remove("container")
    await images.gc()
    with pytest.raises(NotFound):
        snapshots.stat(chain)
    assert snapshots.stat(shared.diff_id).kind == "committed"
    images.add_roots(lambda: [shared.diff_id, shared.blob.digest])
    images.delete(one.id)
    await images.gc()
    assert set(store.content.walk()) == {shared.blob.digest}
    assert snapshots.stat(shared.diff_id).kind == "committed"


async def test_a_snapshot_wanted_in_the_middle_of_a_collection_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for it while the collector is about to remove it may rely on what is seen."""
    images, snapshots = store.images, store.snapshotter
    layer = add_layer(store, archive(file("a", b"a")).getvalue())
    image = images.register(config_of([layer]), [layer], None, [Reference.parse("one:1")])
    chain = await images.unpack(image)
    assert chain is not None
    images.delete(image.id)
    usage = snapshots.usage

    def looked_at(name: str) -> Usage:
        found = usage(name)
        store.content.leases.touch(name)
        return found

    monkeypatch.setattr(snapshots, "usage", looked_at)
    with images.lease():
        await images.gc()
        assert snapshots.stat(chain).kind == "committed"
    monkeypatch.undo()
    await images.gc()
    with pytest.raises(NotFound):
        snapshots.stat(chain)


async def test_commit_run_and_push(store: Store) -> None:
    """A container's changes become a layer; its compressed form is the same each time."""
    image = add_image(store, "base:1")
    chain = await store.images.unpack(image)
    store.snapshotter.prepare("c", chain)
    with mounted(store.snapshotter, "c") as root:
        (root / "new").write_text("new")
        (root / "mnt").mkdir()
    layer = await store.images.commit_layer("c", exclude=["/mnt"], clamp_mtime=1000)
    assert layer.blob.digest == layer.diff_id
    layers = [*store.images.layers_of(image.id), layer]
    child = store.images.register(
        config_of(layers), layers, None, [Reference.parse("child:1")], parent=image.id
    )
    assert store.images.children(image.id) == [child.id]
    store.snapshotter.view("v", await store.images.unpack(child))
    with mounted(store.snapshotter, "v") as root:
        assert sorted(path.name for path in root.iterdir()) == ["hello", "new"]
        assert (root / "new").stat().st_mtime == 1000
    data = await store.images.transfer_manifest(child)
    manifest = media.decode_manifest(data)
    assert [blob.media_type for blob in manifest.layers] == [media.OCI_LAYER_GZIP] * 2
    assert manifest.layers[0] == layers[0].blob
    assert gzip.decompress(store.content.read_bytes(manifest.layers[1].digest)) == (
        store.content.read_bytes(layer.diff_id)
    )
    assert await store.images.transfer_manifest(store.images.get(child.id)) == data
    store.content.delete(manifest.layers[1].digest)
    again = media.decode_manifest(await store.images.transfer_manifest(store.images.get(child.id)))
    assert again == manifest


def test_two_thousand_images_are_one_quick_query(store: Store) -> None:
    with store.metadata.transaction():
        for index in range(2000):
            data = config_of([], author=str(index))
            store.metadata.query(
                "INSERT INTO images (id, config, created, size) VALUES (?, ?, ?, 1)",
                (sha256(data), data, f"2026-01-01T00:00:{index % 60:02}Z"),
            )
            store.metadata.query("INSERT INTO tags VALUES (?, ?)", (f"i{index}:1", sha256(data)))
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        assert len(store.images.list()) == 2000
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.1
