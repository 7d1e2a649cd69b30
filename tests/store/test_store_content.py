"""The content store: nothing unverified or half-written ever has a blob's name."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import DiskFull, NotFound
from sampan.image.digest import sha256
from sampan.store.content import ContentStore, DigestMismatch
from sampan.store.leases import Leases


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path)


def partial(content: ContentStore) -> list[str]:
    return os.listdir(content.root / "ingest")


def test_a_blob_is_there_after_commit_only(content: ContentStore) -> None:
    digest = sha256(b"hello world")
    with content.ingest(digest, 11) as ingest:
        ingest.write(b"hello ")
        assert not content.has(digest)
        ingest.write(memoryview(b"world"))
        assert ingest.commit() == digest
    assert content.has(digest)
    assert content.read_bytes(digest) == b"hello world"
    assert content.size(digest) == 11
    assert list(content.walk()) == [digest]
    assert partial(content) == []
    assert content.delete(digest) == 11
    with pytest.raises(NotFound):
        content.open(digest)


@pytest.mark.parametrize("data", [b"hello", b"hello world and more", b"hello_world"])
def test_wrong_content_leaves_nothing(content: ContentStore, data: bytes) -> None:
    with pytest.raises(DigestMismatch):
        with content.ingest(sha256(b"hello world"), 11) as ingest:
            ingest.write(data)
            ingest.commit()
    assert list(content.walk()) == []
    assert partial(content) == []


def test_a_suspended_ingest_is_resumed_after_a_restart(content: ContentStore) -> None:
    digest = sha256(b"hello world")
    ingest = content.ingest(digest, 11, ref="registry/blob")
    ingest.write(b"hello ")
    ingest.suspend()
    again = ContentStore(content.root)
    with again.ingest(digest, 11, ref="registry/blob") as ingest:
        assert ingest.offset == 6
        ingest.write(b"world")
        assert ingest.commit() == digest


def test_a_ref_in_use_starts_afresh(content: ContentStore) -> None:
    with content.ingest(ref="x") as first:
        first.write(b"abc")
        with content.ingest(ref="x") as second:
            assert second.offset == 0


def test_a_restart_removes_what_cannot_be_resumed(content: ContentStore) -> None:
    ingest = content.ingest()
    ingest.write(b"abc")
    assert len(partial(content)) == 1
    ContentStore(content.root)
    assert partial(content) == []


def test_damage_on_disk_is_noticed(content: ContentStore) -> None:
    digest = content.write_bytes(b"hello world")
    content.path(digest).chmod(0o600)
    content.path(digest).write_bytes(b"hello worle")
    with pytest.raises(DigestMismatch, match="damaged"):
        content.read_bytes(digest)


def test_equal_blobs_written_at_once(content: ContentStore) -> None:
    data = os.urandom(100_000)
    threads = [threading.Thread(target=content.write_bytes, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(content.walk()) == [sha256(data)]
    assert partial(content) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    content = ContentStore(small_disk)
    with pytest.raises(DiskFull):
        with content.ingest() as ingest:
            for _ in range(32):
                ingest.write(bytes(65536))
            ingest.commit()
    assert list(content.walk()) == []
    assert partial(content) == []


def test_a_lease_holds_what_was_touched_under_it() -> None:
    leases = Leases()
    with leases.open():
        leases.touch("a")
        with leases.collecting() as held:
            assert held("a")
            assert not held("b")
    with leases.collecting() as held:
        assert not held("a")


def test_a_lease_that_ends_during_a_collection_still_counts() -> None:
    leases = Leases()
    lease = leases.open()
    lease.__enter__()
    leases.touch("a")
    with leases.collecting() as held:
        lease.__exit__(None, None, None)
        assert held("a")


@pytest.mark.parametrize(
    "sizes", [[3, 0, 5], [1 << 20], [1, 1 << 19, 700, 1 << 21] * 4, [9] * 3000]
)
def test_pieces_are_hashed_in_their_order(content: ContentStore, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    whole = b"".join(pieces)
    with content.ingest() as ingest:
        ingest.write(b"before")
        ingest.write_pieces(pieces)
        ingest.write_pieces([b"small", memoryview(whole)])
        assert ingest.digest == sha256(b"before" + whole + b"small" + whole)
        ingest.write_pieces([whole])
        ingest.write(b"after")
        digest = ingest.commit()
    assert digest == sha256(b"before" + whole + b"small" + whole * 2 + b"after")
    assert sha256(content.read_bytes(digest)) == digest


def test_pieces_that_are_given_up_leave_nothing(content: ContentStore) -> None:
    with content.ingest() as ingest:
        ingest.write_pieces([bytes(8 << 20)])
    assert partial(content) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "hasher"]


def test_more_pieces_than_expected_are_refused(content: ContentStore) -> None:
    data = bytes(2 << 20)
    with pytest.raises(DigestMismatch), content.ingest(sha256(data), len(data)) as ingest:
        ingest.write_pieces([data, b"x"])
    assert partial(content) == []
