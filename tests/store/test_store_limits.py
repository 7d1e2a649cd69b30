"""Bombs, layers in forms made for lazy pulling, blobs that are not kept, disks that fill up."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from stores import archive, file, mounted, open_store
from test_store_archives import stream
from test_store_images import config_of

from sampan.errors import DiskFull, InvalidParameter, SampanError, Unsupported
from sampan.image import manifest as media
from sampan.image.config import ImageConfig
from sampan.image.manifest import Descriptor
from sampan.image.reference import Reference
from sampan.store.archives import Archives
from sampan.store.check import check
from sampan.store.images import ImageStore, LayerRef

LIMIT = 4 << 20


def packed(data: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(data, 6, mtime=0)
    return zstandard.ZstdCompressor(level=3).compress(data)


def ref_of(
    store: ImageStore, tar: bytes, blob: bytes, kind: str = media.OCI_LAYER_GZIP
) -> LayerRef:
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    return LayerRef(diff_id, Descriptor(kind, store.content.write_bytes(blob), len(blob)))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
async def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path, kind: str) -> None:
    with open_store(tmp_path, "plain") as store:
        images = ImageStore(store.content, store.metadata, store.snapshotter, max_layer_size=LIMIT)
        bomb = archive(file("zeros", bytes(64 << 20))).getvalue()
        layer = ref_of(images, bomb, packed(bomb, kind))
        names = [Reference.parse("bomb:1")]
        with pytest.raises(InvalidParameter, match=f"more than the {LIMIT} bytes"):
            async with images.attempt():
                await images.admit(config_of([layer]), [layer], None, names)
        archives = Archives(images)
        with pytest.raises(InvalidParameter, match=f"more than the {LIMIT} bytes"):
            await archives.import_(stream(packed(bomb, kind)), ImageConfig())
        with pytest.raises(InvalidParameter, match=f"more than the {LIMIT} bytes"):
            await archives.load(stream(packed(bomb, kind)))
        assert images.list() == []
        assert list(images.content.walk()) == []
        assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < LIMIT
        assert check(store.metadata, images) == []


def estargz(tar: bytes) -> bytes:
    """Each member a gzip stream of its own, a table of contents, and a footer that points at it
    in the extra field of an empty stream."""
    parts, position, toc = [], 0, []
    with tarfile.open(fileobj=io.BytesIO(tar)) as source:
        members = source.getmembers()
    for number, member in enumerate(members):
        end = members[number + 1].offset if number + 1 < len(members) else len(tar)
        toc.append({"name": member.name, "type": "reg", "offset": sum(map(len, parts))})
        parts.append(gzip.compress(tar[position:end], mtime=0))
        position = end
    where = sum(map(len, parts))
    extra = b"SG\x16\x00" + f"{where:016x}STARGZ".encode()
    footer = (
        b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
        + len(extra).to_bytes(2, "little")
        + extra
        + b"\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"
    )
    return b"".join(parts) + footer


def zstd_chunked(tar: bytes) -> bytes:
    """A zstd frame each few bytes, the manifest and the footer in skippable frames."""
    squeeze = zstandard.ZstdCompressor()
    frames = [squeeze.compress(tar[n : n + 3000]) for n in range(0, len(tar), 3000)]
    manifest = squeeze.compress(json.dumps({"version": 1, "entries": []}).encode())
    skippable = b"\x50\x2a\x4d\x18"
    for data in (manifest, bytes(56) + b"GNUlInUx"):
        frames.append(skippable + len(data).to_bytes(4, "little") + data)
    return b"".join(frames)


@pytest.mark.parametrize("form", [estargz, zstd_chunked])
@pytest.mark.parametrize("driver", ["erofs", "overlay"])
async def test_forms_for_lazy_pulling_are_read_as_plain_layers(
    tmp_path: Path,
    form,
    driver: str,  # type: ignore[no-untyped-def]
) -> None:
    tar = archive(file("a", b"x" * 5000), file("b", b"y" * 7000), file("c", b"")).getvalue()
    kind = media.OCI_LAYER_GZIP if form is estargz else media.OCI_LAYER_ZSTD
    with open_store(tmp_path, driver) as store:
        layer = ref_of(store.images, tar, form(tar), kind)
        names = [Reference.parse("lazy:1")]
        image = await store.images.admit(config_of([layer]), [layer], None, names)
        store.snapshotter.prepare("c", await store.images.unpack(image))
        with mounted(store.snapshotter, "c") as root:
            assert (root / "b").read_bytes() == b"y" * 7000
        store.snapshotter.remove("c")
        assert check(store.metadata, store.images) == []


async def test_discarded_blobs_are_made_anew(tmp_path: Path) -> None:
    with open_store(tmp_path, "overlay") as store:
        with pytest.raises(Unsupported, match="discard-blobs needs the storage driver erofs"):
            ImageStore(store.content, store.metadata, store.snapshotter, discard_blobs=True)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    tar = archive(file("a", os.urandom(200_000))).getvalue()
    with open_store(tmp_path, "erofs") as store:
        images = ImageStore(store.content, store.metadata, store.snapshotter, discard_blobs=True)
        layer = ref_of(images, tar, packed(tar, "gzip"))
        names = [Reference.parse("app:1")]
        image = await images.admit(config_of([layer]), [layer], None, names)
        assert not store.content.has(layer.blob.digest)
        # The tar is one file under two names.
        assert store.content.path(layer.diff_id).stat().st_nlink == 2
        await images.gc()
        assert check(store.metadata, images) == []
        manifest = media.decode_manifest(await images.transfer_manifest(image))
        again = manifest.layers[0]
        assert gzip.decompress(store.content.read_bytes(again.digest)) == tar
        images.discard_pushed(image.id)
        assert not store.content.has(again.digest)
        assert check(store.metadata, images) == []
        images.delete(image.id)
        await images.gc()
        assert list(store.content.walk()) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place, image = tmp_path / "disk", tmp_path / "disk.img"
    place.mkdir()
    with image.open("wb") as out:
        out.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-R", "-l", place], check=True)


@pytest.mark.parametrize("driver", ["overlay", "erofs"])
async def test_the_disk_fills_at_any_write(
    disk: Path, driver: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(7)
    count = int(os.environ.get("SAMPAN_TEST_FULL_DISKS", "12"))
    full = 0
    tar = archive(*(file(f"f{n}", chance.randbytes(100_000)) for n in range(15))).getvalue()
    with open_store(disk, driver) as store:
        archives = Archives(store.images)
        for number in range(count):
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            filler = disk / "filler"
            with filler.open("wb") as out:
                os.posix_fallocate(out.fileno(), 0, max(1, free - chance.randrange(0, 4_500_000)))
            try:
                image = await archives.import_(
                    stream(packed(tar, "gzip")), ImageConfig(), Reference.parse(f"app:{number}")
                )
                key = f"c{number}"
                store.snapshotter.prepare(key, await store.images.unpack(image))
                with mounted(store.snapshotter, key) as root:
                    (root / "new").write_bytes(chance.randbytes(300_000))
                await store.images.commit_layer(key)
            except (DiskFull, OSError) as error:
                assert isinstance(error, DiskFull) or error.errno == 28, error
                full += 1
            except SampanError as error:
                pytest.fail(f"not the right error for a full disk: {error!r}")
            finally:
                filler.unlink()
            if _exists(store, f"c{number}"):
                store.snapshotter.remove(f"c{number}")
            assert check(store.metadata, store.images) == []
            for image in store.images.list():
                store.images.delete(image.id)
            await store.images.gc()
    with capsys.disabled():
        print(f"\n{count} loads and commits on {driver}, {full} met a full disk: all checks clean")


def _exists(store, key: str) -> bool:  # type: ignore[no-untyped-def]
    try:
        store.snapshotter.stat(key)
    except SampanError:
        return False
    return True
