"""Layers that are unpacked while their blobs are still being received."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
import time
from collections.abc import Callable

import pytest
from stores import Store, archive, file, mounted
from test_store_images import config_of

from sampan.errors import InvalidParameter
from sampan.image import manifest as media
from sampan.image.digest import sha256
from sampan.image.manifest import Descriptor
from sampan.image.reference import Reference
from sampan.progress import Progress
from sampan.store.arriving import Interrupted
from sampan.store.check import check
from sampan.store.images import LayerRef

CONTENT = os.urandom(400_000)
TAR = archive(file("a", CONTENT), file("d/b", b"b"), file("z", CONTENT[::-1])).getvalue()
BLOB = gzip.compress(TAR, mtime=0)
LAYER = LayerRef(sha256(TAR), Descriptor(media.OCI_LAYER_GZIP, sha256(BLOB), len(BLOB)))
REF = f"blob {LAYER.blob.digest}"


class Sender:
    """Receives the blob as a pull does, piece by piece, in a thread; it goes on when told."""

    def __init__(self, store: Store, work: Callable[[Sender], None]) -> None:
        self.store = store
        self.step = threading.Semaphore(0)
        self.began = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(asyncio.to_thread(work, self))

    def begin(self) -> None:
        self._loop.call_soon_threadsafe(self.began.set)

    async def begun(self) -> None:
        await self.began.wait()

    async def here(self) -> None:
        await asyncio.wait((self._task,))
        self._task.result()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ingest(store: Store):  # type: ignore[no-untyped-def]
    return store.content.ingest(LAYER.blob.digest, LAYER.blob.size, ref=REF)


def steadily(sender: Sender) -> None:
    with ingest(sender.store) as receiving:
        for start in range(0, len(BLOB), 50_000):
            receiving.write(BLOB[start : start + 50_000])
            sender.begin()
        receiving.commit()


def broken_and_resumed(sender: Sender) -> None:
    receiving = ingest(sender.store)
    receiving.write(BLOB[:300_000])
    sender.begin()
    receiving.suspend()
    with ingest(sender.store) as receiving:
        assert receiving.offset == 300_000
        receiving.write(BLOB[300_000:])
        receiving.commit()


def damaged_at_first(sender: Sender) -> None:
    with ingest(sender.store) as receiving:
        receiving.write(BLOB[:100_000])
        sender.begin()
        receiving.write(bytes(1000))
        receiving.write(BLOB[101_000:])
        with pytest.raises(Exception, match="has digest"):
            receiving.commit()
    steadily(sender)


def begun_anew(sender: Sender) -> None:
    with ingest(sender.store) as receiving:
        receiving.write(BLOB[:300_000])
        sender.begin()
        receiving.restart()
        receiving.write(BLOB)
        receiving.commit()


def here_already(sender: Sender) -> None:
    sender.store.content.write_bytes(BLOB)
    sender.begin()


@pytest.mark.parametrize(
    "work", [steadily, broken_and_resumed, damaged_at_first, begun_anew, here_already]
)
async def test_a_layer_is_unpacked_as_it_comes(
    store: Store, work: Callable[[Sender], None]
) -> None:
    images, said = store.images, list[Progress]()
    async with images.attempt():
        await images.apply_arriving([LAYER], Sender(store, work), said.append)
        names = [Reference.parse("app:1")]
        image = await images.admit(config_of([LAYER]), [LAYER], None, names)
    assert said[-1].status == "Pull complete"
    store.snapshotter.prepare("c", await images.unpack(image))
    with mounted(store.snapshotter, "c") as root:
        assert (root / "a").read_bytes() == CONTENT
        assert (root / "z").read_bytes() == CONTENT[::-1]
    store.snapshotter.remove("c")
    assert image.size == 2 * len(CONTENT) + 1
    assert check(store.metadata, images) == []


async def test_it_is_unpacked_before_the_blob_is_whole(store: Store) -> None:
    """All of the blob is written, but it is not published before its snapshot is there."""
    chain = LAYER.diff_id

    def work(sender: Sender) -> None:
        with ingest(sender.store) as receiving:
            receiving.write(BLOB)
            sender.begin()
            assert sender.step.acquire(timeout=60)
            receiving.commit()

    images = store.images
    with images.lease():
        sender = Sender(store, work)
        applying = asyncio.create_task(images.apply_arriving([LAYER], sender))
        await asyncio.to_thread(until, lambda: images._has_snapshot(chain))
        assert not store.content.has(LAYER.blob.digest) and not applying.done()
        sender.step.release()
        await applying
    assert store.content.has(LAYER.blob.digest)


async def test_others_that_want_the_layer_wait_for_it(store: Store) -> None:
    def work(sender: Sender) -> None:
        with ingest(sender.store) as receiving:
            receiving.write(BLOB[:200_000])
            sender.begin()
            assert sender.step.acquire(timeout=60)
            receiving.write(BLOB[200_000:])
            receiving.commit()

    images = store.images
    with images.lease():
        sender = Sender(store, work)
        first = asyncio.create_task(images.apply_arriving([LAYER], sender))
        await sender.begun()
        await asyncio.to_thread(until, lambda: images._following)
        second = asyncio.create_task(images.apply([LAYER]))
        third = asyncio.create_task(images.apply_arriving([LAYER], sender))
        await asyncio.sleep(0)
        sender.step.release()
        await asyncio.gather(first, second, third)
    assert images._has_snapshot(LAYER.diff_id)


async def test_a_pull_given_up_leaves_no_thread_and_no_snapshot(store: Store) -> None:
    def work(sender: Sender) -> None:
        receiving = ingest(sender.store)
        receiving.write(BLOB[:200_000])
        sender.begin()
        assert sender.step.acquire(timeout=60)
        receiving.suspend()

    images = store.images
    sender = Sender(store, work)

    async def pull() -> None:
        async with images.attempt():
            await images.apply_arriving([LAYER], sender)

    pulling = asyncio.create_task(pull())
    await asyncio.to_thread(until, lambda: images._following)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    sender.step.release()
    await sender.here()
    while images._following:
        await asyncio.wait(list(images._following.values()))
    assert not images._has_snapshot(LAYER.diff_id)
    await images.gc()
    assert check(store.metadata, images) == []
    kept = {path.name for path in (store.state / "snapshots" / store.snapshotter.driver).iterdir()}
    assert kept <= {"empty"}


async def test_a_bad_layer_is_refused_as_if_it_had_been_there(store: Store) -> None:
    tar = archive(file("a", CONTENT), file("../../out", b"")).getvalue()
    blob = gzip.compress(tar, mtime=0)
    layer = LayerRef(sha256(tar), Descriptor(media.OCI_LAYER_GZIP, sha256(blob), len(blob)))

    def work(sender: Sender) -> None:
        with store.content.ingest(layer.blob.digest, len(blob)) as receiving:
            receiving.write(blob[:1000])
            sender.begin()
            receiving.write(blob[1000:])
            receiving.commit()

    with pytest.raises(InvalidParameter, match="leads out of the layer"):
        async with store.images.attempt():
            await store.images.apply_arriving([layer], Sender(store, work))
    assert list(store.content.walk()) == []
    assert check(store.metadata, store.images) == []


def test_a_stream_of_what_arrives(store: Store) -> None:
    content = store.content
    assert content.follow(LAYER.blob.digest) is None
    receiving = ingest(store)
    receiving.write(BLOB[:10])
    first, second = content.follow(LAYER.blob.digest), content.follow(LAYER.blob.digest)
    assert first is not None and second is not None
    assert first.read(4) + first.read(100) == BLOB[:10]
    receiving.suspend()
    with pytest.raises(Interrupted):
        first.read(1)
    assert second.read() == BLOB[:10]  # what is there is there
    with pytest.raises(Interrupted):
        second.read()
    assert content.follow(LAYER.blob.digest) is None
    with ingest(store) as receiving:
        third = content.follow(LAYER.blob.digest)
        assert third is not None
        receiving.write(BLOB[10:])
        receiving.commit()
    assert third.readall() == BLOB
    for stream in (first, second, third):
        stream.close()
