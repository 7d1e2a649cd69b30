"""Mistakes and accidents that a build must survive or explain."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from build_workshop import Workshop

from sampan.build.errors import StepError
from sampan.build.ops.archive import ArchiveTree
from sampan.build.retained import IDLE, RetainedContexts
from sampan.build.solver.cache import CacheRecord
from sampan.cli import buildsize
from sampan.client import contextfolder
from sampan.errors import InvalidParameter, NotFound, SampanError


async def test_stages_in_a_circle(workshop: Workshop) -> None:
    with pytest.raises(SampanError, match=r"(?i)circular|not found|before"):
        await workshop.build(
            "FROM busybox AS a\nCOPY --from=b /x /x\nFROM busybox AS b\nCOPY --from=a /x /x\n",
            target="b",
        )


async def test_copy_never_leaves_the_context_by_a_link(workshop: Workshop) -> None:
    context = workshop.context(real="inside")
    (context / "out").symlink_to("/etc/hostname")
    (context / "up").symlink_to("../../../../../../etc/hostname")
    for name in ("out", "up"):
        with pytest.raises(SampanError, match="not found"):
            await workshop.build(f"FROM scratch\nCOPY {name} /x\n", context)


async def test_a_failed_step_keeps_the_cache_of_those_before(workshop: Workshop) -> None:
    text = "FROM busybox\nRUN echo kept > /kept\nRUN {}\n"
    with pytest.raises(StepError):
        await workshop.build(text.format("false"))
    await workshop.build(text.format("true"))
    assert "StepCached" in workshop.kinds()


async def test_what_may_not_have_reached_the_disk_is_made_again(workshop: Workshop) -> None:
    """After the power failed, files of a step may be empty: its layer's tar is not."""
    text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n"
    result = await workshop.build(text)
    identity = await workshop.read(result, "/id")
    deps = workshop.deps
    records = deps.metadata.collection("build_cache", CacheRecord)
    (record,) = records.all()
    assert record.boot == deps.shared.cache.boot
    upper = deps.snapshots.upper(record.snapshot or "")
    (upper / "id").write_text("")
    deps.shared.cache.settle([record.id])
    deps.shared.cache.distrust()
    assert await workshop.read(result, "/id") == ""
    record.boot = "an-earlier-boot"
    records.put(record)
    deps.shared.cache.distrust()
    assert not records.all()
    assert await workshop.read(result, "/id") == identity
    assert (await workshop.build(text)).image_id != result.image_id


def test_a_context_that_is_too_large_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "disk").mkdir()
    with (tmp_path / "disk" / "image").open("wb") as file:
        os.truncate(file.fileno(), 3 << 30)
    buildsize.warn(contextfolder.packed(str(tmp_path)))
    said = capsys.readouterr().err
    assert "the build context has 3.2" in said
    assert "disk (3.2" in said
    assert ".dockerignore" in said


def test_a_small_context_is_not_spoken_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    buildsize.warn(contextfolder.packed(str(tmp_path)))
    assert not capsys.readouterr().err


def test_rows_without_their_fingerprint_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="fingerprint"):
        RetainedContexts().offer("a" * 64, "b" * 64, b"path\0identity\0")


def test_a_context_that_was_never_offered_is_asked_for(tmp_path: Path) -> None:
    archive = tmp_path / "tar"
    archive.write_bytes(bytes(1024))
    with pytest.raises(NotFound, match="send all of it"):
        RetainedContexts().complete("a" * 64, "b" * 64, ArchiveTree(archive))


def test_a_retained_context_takes_little_memory_while_no_build_reads_it(tmp_path: Path) -> None:
    def resident() -> int:
        """KiB of the archive's pages in this process."""
        found, counted = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            fields = line.split()
            if not fields[0].endswith(":"):
                counted = str(archive) in line
            elif counted and fields[0] == "Rss:":
                found += int(fields[1])
        return found

    retained = RetainedContexts()
    name, size = "a" * 64, 8 << 20
    archive = tmp_path / "tar"
    tree = None
    for identity in (b"1", b"2"):
        rows = b"one\0" + identity + b"\0two\0same\0"
        fingerprint = hashlib.sha256(rows).hexdigest()
        wanted = retained.offer(name, fingerprint, rows)
        assert wanted == ([0, 2] if identity == b"1" else [0, 1])
        with tarfile.open(archive, "w") as made:
            for member in ("one", "two")[slice(*wanted)]:
                head = tarfile.TarInfo(member)
                head.size = size
                made.addfile(head, io.BytesIO(identity * size))
        tree = retained.complete(name, fingerprint, ArchiveTree(archive))
        archive.unlink()
    assert tree is not None
    contents = [tree.open_file(member).read() for member in ("one", "two")]
    assert contents == [b"2" * size, b"1" * size]
    assert resident() > 2 * size >> 10
    tree.rest()
    assert resident() < 256
    assert tree.open_file("two").read() == contents[1]


def test_an_offer_without_a_build_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    retained = RetainedContexts()
    rows = b"one\x001\0"
    retained.offer("a" * 64, hashlib.sha256(rows).hexdigest(), rows)
    wait = retained.trim()
    assert wait is not None
    assert 0 < wait <= IDLE
    later = time.monotonic() + IDLE + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert retained.trim() is None
