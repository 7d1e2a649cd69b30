"""``hub check``: what is wrong in a hub's storage is found, told and repaired."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import obstore

from sampan.hub.config import HubConfig, Upstream
from sampan.hub.storage.objects import ObjectStorage
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Hubs, Running
from tests.hub.test_hub_registry import manifest, put_blob, put_manifest, sha
from tests.registry.images import make_image

SAMPAN = Path(sys.executable).with_name("sampan")


async def spoil(hub: Running, digest: str, data: bytes | None) -> None:
    """Replace a blob's bytes behind the hub's back; None removes them."""
    storage = hub.hub.storage
    if isinstance(storage, ObjectStorage):
        encoded = digest.partition(":")[2]
        path = f"blobs/sha256/{encoded[:2]}/{encoded}"
        if data is None:
            await obstore.delete_async(storage._store, path)
        else:
            await obstore.put_async(storage._store, path, data)
        return
    path = storage.local_path(digest)
    assert path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink() if data is None else path.write_bytes(data)


async def reasons(hub: Running, *, repair: bool = False) -> dict[str, tuple[str, bool]]:
    found = await hub.hub.checker.check(repair=repair)
    return {fault.subject: (fault.reason, fault.repaired) for fault in found}


async def test_damaged_blobs_are_found_removed_and_pushed_anew(
    hub: Running, client: RegistryClient, source: ContentStore
) -> None:
    made = make_image(source, [1000, 2000, 3000], seed=9)
    ref = Reference.parse(f"{hub.host}/a:1")
    await client.push(ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore)
    assert await reasons(hub) == {}
    damaged, missing, short = made.layers
    size = len(source.read_bytes(damaged))
    await spoil(hub, damaged, b"x" * size)
    await spoil(hub, missing, None)
    await spoil(hub, short, b"x")
    first = await reasons(hub)
    assert first[damaged] == ("its bytes are damaged", False)
    assert first[missing] == ("its bytes are missing", False)
    assert set(first) == {damaged, missing, short}
    repaired = await reasons(hub, repair=True)
    assert {repaired[d][1] for d in made.layers} == {True}
    image = f"a@{sha(made.manifest)}"
    # The manifest cannot be mended from here, and says so until it is pushed again.
    assert repaired[image][0].startswith("it names sha256:")
    assert set(await reasons(hub)) == {image}
    await client.push(ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore)
    assert await reasons(hub) == {}


async def test_strays_broken_manifests_and_lost_uploads_are_found(hub: Running) -> None:
    await put_blob(hub, "a", b"{}")
    await put_manifest(hub, "a", "1", manifest(b"{}"))
    stray = sha(b"stray")
    await spoil(hub, stray, b"stray")
    lost = await hub.hub.uploads.begin("a", "")
    orphan = await hub.hub.uploads.begin("a", "")
    running = await hub.hub.uploads.begin("a", "")
    await hub.hub.storage.discard(lost)
    database = hub.hub.database
    await database.write(lambda sql: sql.run("UPDATE uploads SET touched = 1 WHERE id = ?", lost))
    await database.write(lambda sql: sql.run("UPDATE manifests SET content = ?", b"[]"))
    broken = f"a@{sha(manifest(b'{}'))}"
    found = await reasons(hub, repair=True)
    assert found == {
        stray: ("no record names it", True),
        broken: ("the manifest is damaged", True),
        f"upload {lost}": ("its bytes are missing", True),
    }
    assert await reasons(hub) == {}
    assert (await hub.http.get("/v2/a/manifests/1")).status == 404
    for upload in (orphan, running):
        assert await hub.hub.uploads.size("a", "", upload) == 0


async def test_an_upload_without_a_record_goes_when_it_is_old(file_hub: Running) -> None:
    import os

    root = file_hub.hub.config.root
    young, old = "0" * 32, "1" * 32
    for name in (young, old, "note.txt"):
        (root / "uploads" / name).write_bytes(b"x")
    for name in (old, "note.txt"):
        os.utime(root / "uploads" / name, (1, 1))
    (root / "blobs/sha256/ab").mkdir(parents=True)
    (root / "blobs/sha256/ab/note.txt").write_text("x")
    found = await reasons(file_hub, repair=True)
    assert found == {
        "sha256:note.txt": ("it is among the blobs, but has no digest's name", False),
        f"upload {old}": ("no record names it", True),
    }
    assert sorted(p.name for p in (root / "uploads").iterdir()) == [young, "note.txt"]
    await file_hub.hub.collector.collect()


async def test_blobs_that_a_cache_did_not_fetch_yet_are_not_missed(
    hubs: Hubs, tmp_path: Path
) -> None:
    above = await hubs.start(HubConfig(root=tmp_path / "above", anonymous="push"))
    await put_blob(above, "app", b"{}")
    await put_manifest(above, "app", "1", manifest(b"{}"))
    upstream = Upstream("cache", f"http://{above.host}")
    below = await hubs.start(HubConfig(root=tmp_path / "below", upstreams=(upstream,)))
    assert (await below.http.get("/v2/cache/app/manifests/1")).status == 200
    assert await reasons(below) == {}


async def test_the_command_line_checks_beside_a_serving_hub(file_hub: Running) -> None:
    import asyncio

    root = str(file_hub.hub.config.root)
    data = b"some bytes"
    digest = await put_blob(file_hub, "a", data)

    async def sampan(*words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            SAMPAN, "hub", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    code, out, _ = await sampan("check", "--root", root)
    assert (code, out) == (
        0,
        "checked 1 blobs of 10 bytes and 0 manifests: 0 faults, 0 removed\n",
    )
    await spoil(file_hub, digest, b"other byte")
    code, out, _ = await sampan("check", "--root", root)
    assert code == 1 and out.startswith(f"{digest}: its bytes are damaged\n")
    code, out, _ = await sampan("check", "--root", root, "--repair")
    assert code == 0 and "damaged (removed)" in out
    assert (await file_hub.http.get(f"/v2/a/blobs/{digest}")).status == 404
    code, _, err = await sampan("check", "--root", root + "/none")
    assert code == 1 and "there is no hub in" in err and "Traceback" not in err

    code, out, _ = await sampan("password", "--root", root, "admin")
    assert code == 0
    assert await file_hub.hub.accounts.verify("admin", file_hub.password) is None
    who = await file_hub.hub.accounts.verify("admin", out.strip())
    assert who and who.admin
    code, _, err = await sampan("password", "--root", root, "nobody")
    assert code == 1 and "there is no user nobody" in err
