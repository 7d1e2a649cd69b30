"""Crashes, full disks and damage: the store stays, or becomes again, sound."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import Store, archive, file, mounted, open_store
from test_store_images import add_image, add_layer, config_of

from sampan.errors import DiskFull
from sampan.image.reference import Reference
from sampan.store.check import check

WORKER = """
import asyncio, os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from sampan.image.config import ImageConfig
from sampan.image.reference import Reference
from sampan.store.archives import Archives
from stores import archive, file, mounted, open_store
from test_store_archives import collect, stream
from test_store_images import config_of

async def main():
    with open_store(Path({state!r}), {driver!r}) as store:
        images, snapshots, archives = store.images, store.snapshotter, Archives(store.images)
        print("ready", flush=True)
        for turn in range(1000):
            data = archive(file("a", os.urandom(300_000)), file("d/b", b"x")).getvalue()
            base = await archives.import_(stream(data), ImageConfig(), Reference.parse("base:1"))
            with images.lease():
                key = os.urandom(8).hex()
                snapshots.prepare(key, await images.unpack(base))
                with mounted(snapshots, key) as root:
                    (root / "new").write_bytes(os.urandom(100_000))
                    (root / "a").unlink()
                layers = [*images.layers_of(base.id), await images.commit_layer(key)]
                child = images.register(
                    config_of(layers), layers, None, [Reference.parse("child:1")], base.id
                )
                await images.transfer_manifest(child)
            saved = await collect(archives.save([(child, [Reference.parse("saved:1")])]))
            snapshots.remove(key)
            images.delete(child.id)
            images.delete(base.id)
            await images.gc()
            await archives.load(stream(saved))
            if turn % 2:
                images.delete(images.get("saved:1").id)
                await images.gc()

asyncio.run(main())
"""


@pytest.mark.parametrize("driver", ["overlay", "plain", "erofs"])
def test_kill_at_any_instant(tmp_path: Path, driver: str) -> None:
    chance = random.Random(20)
    script = WORKER.format(tests=str(Path(__file__).parent), state=str(tmp_path), driver=driver)
    for _ in range(12):
        worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.3))  # The instant is the point of this test.
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        with open_store(tmp_path, driver) as store:
            assert check(store.metadata, store.images) == []
            for image in store.images.list():
                for layer in store.images.layers_of(image.id):
                    with store.images.layers.open(layer) as stream_:
                        while stream_.read(1 << 20):
                            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    image = tmp_path / "disk.img"
    with image.open("wb") as out:
        out.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=True)


@pytest.mark.parametrize("driver", ["overlay", "plain", "erofs"])
async def test_a_full_disk(small_disk: Path, driver: str) -> None:
    with open_store(small_disk, driver) as store:
        image = add_image(store, "app:1", content=b"small")
        chain = await store.images.unpack(image)
        store.snapshotter.prepare("c", chain)
        big = archive(*(file(f"f{i}", bytes(1 << 20)) for i in range(30))).getvalue()
        layer = add_layer(store, big)
        layers = [*store.images.layers_of(image.id), layer]
        with pytest.raises(DiskFull, match="no space left"):
            await store.images.admit(config_of(layers), layers, None, [Reference.parse("big:1")])
        assert [found.repo_tags for found in store.images.list()] == [("app:1",)]
        await store.images.gc()
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        assert free > 8 << 20
        with mounted(store.snapshotter, "c") as root:
            (root / "fill").write_bytes(os.urandom(free * 2 // 3))
        with pytest.raises(DiskFull):
            await store.images.commit_layer("c")
        store.snapshotter.remove("c")
        await store.images.gc()
        after = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        assert after >= free - (1 << 18)  # The database's log may have grown.
        assert check(store.metadata, store.images) == []


async def test_damage_is_found_and_repaired(store: Store) -> None:
    image = add_image(store, "app:1")
    chain = await store.images.unpack(image)
    assert chain is not None
    assert check(store.metadata, store.images) == []
    (layer,) = store.images.layers_of(image.id)
    blob = store.content.path(layer.blob.digest)
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    store.content.delete(image.id)
    snapshot = store.state / "snapshots" / store.snapshotter.driver / "1"
    (snapshot / ("layer.tar" if store.snapshotter.driver == "erofs" else "fs")).rename(
        snapshot / "gone"
    )
    found = [problem.text for problem in check(store.metadata, store.images)]
    assert any("is damaged" in text for text in found)
    assert any("lacks its configuration" in text for text in found)
    assert any("the snapshot" in text for text in found)
    repaired = check(store.metadata, store.images, repair=True)
    assert sum(problem.repaired for problem in repaired) >= 3
    rest = check(store.metadata, store.images)
    assert [problem.text for problem in rest] == [
        f"the image {image.id} lacks its layer {layer.diff_id}: pull or load it again"
    ]
    again = add_image(store, "app:1")
    assert again.id == image.id
    await store.images.unpack(again)
    assert check(store.metadata, store.images) == []
