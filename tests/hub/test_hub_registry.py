"""The distribution API, request by request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.image.manifest import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from sampan.image.reference import Reference
from sampan.progress import Progress, ignore
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.hub.conftest import Running
from tests.registry.images import make_image, make_index

MB = 1 << 20


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def code(response: Any) -> str:
    return str((await response.json())["errors"][0]["code"])


async def put_blob(hub: Running, repository: str, data: bytes) -> str:
    response = await hub.http.post(f"/v2/{repository}/blobs/uploads/?digest={sha(data)}", data=data)
    assert response.status == 201, await response.text()
    return sha(data)


def manifest(config: bytes, **extra: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": sha(config), "size": len(config)},
        "layers": [],
        **extra,
    }
    return json.dumps(document).encode()


async def put_manifest(hub: Running, repository: str, name: str, data: bytes) -> Any:
    kind = json.loads(data)["mediaType"]
    return await hub.http.put(
        f"/v2/{repository}/manifests/{name}", data=data, headers={"Content-Type": kind}
    )


async def test_an_upload_in_chunks_out_of_order_and_resumed(hub: Running) -> None:
    data = bytes(range(256)) * 10_000
    begun = await hub.http.post("/v2/a/b/blobs/uploads/")
    assert begun.status == 202
    location = begun.headers["Location"]
    assert begun.headers["Range"] == "0-0"
    first, second = data[:1_000_000], data[1_000_000:]

    sent = await hub.http.patch(
        location, data=first, headers={"Content-Range": f"0-{len(first) - 1}"}
    )
    assert sent.status == 202 and sent.headers["Range"] == f"0-{len(first) - 1}"
    wrong = await hub.http.patch(location, data=b"x", headers={"Content-Range": "5-5"})
    assert wrong.status == 416 and wrong.headers["Range"] == f"0-{len(first) - 1}"
    status = await hub.http.get(location)
    assert status.status == 204 and status.headers["Range"] == f"0-{len(first) - 1}"
    # Another process has not seen the bytes: it hashes them anew.
    hub.hub.uploads._hashes.clear()
    sent = await hub.http.patch(
        location,
        data=second,
        headers={"Content-Range": f"{len(first)}-{len(data) - 1}"},
    )
    assert sent.status == 202
    done = await hub.http.put(f"{location}?digest={sha(data)}")
    assert done.status == 201 and done.headers["Docker-Content-Digest"] == sha(data)
    assert await (await hub.http.get(done.headers["Location"])).read() == data
    assert (await hub.http.get(location)).status == 404


async def test_a_wrong_digest_is_refused_and_nothing_is_kept(hub: Running) -> None:
    begun = await hub.http.post("/v2/a/blobs/uploads/")
    done = await hub.http.put(f"{begun.headers['Location']}?digest={sha(b'other')}", data=b"x")
    assert done.status == 400 and await code(done) == "DIGEST_INVALID"
    assert (await hub.http.head(f"/v2/a/blobs/{sha(b'other')}")).status == 404
    assert (await hub.http.get(begun.headers["Location"])).status == 404


async def test_sha512_blobs(hub: Running) -> None:
    data = b"hello" * 1000
    digest = "sha512:" + hashlib.sha512(data).hexdigest()
    done = await hub.http.post(f"/v2/a/blobs/uploads/?digest={digest}", data=data)
    assert done.status == 201
    assert await (await hub.http.get(f"/v2/a/blobs/{digest}")).read() == data


async def test_ranges(hub: Running) -> None:
    data = bytes(range(250)) * 9000
    digest = await put_blob(hub, "a", data)

    async def get(header: str) -> tuple[int, bytes, str]:
        answer = await hub.http.get(f"/v2/a/blobs/{digest}", headers={"Range": header})
        return answer.status, await answer.read(), answer.headers.get("Content-Range", "")

    size = len(data)
    assert await get("bytes=0-9") == (206, data[:10], f"bytes 0-9/{size}")
    assert await get("bytes=1000000-") == (
        206,
        data[1_000_000:],
        f"bytes 1000000-{size - 1}/{size}",
    )
    assert await get("bytes=-5") == (206, data[-5:], f"bytes {size - 5}-{size - 1}/{size}")
    assert (await get("bytes=0-99999999"))[1] == data
    assert (await get("lines=1-2"))[:2] == (200, data)
    assert (await get(f"bytes={size}-"))[0] == 416
    head = await hub.http.head(f"/v2/a/blobs/{digest}")
    assert head.headers["Content-Length"] == str(size)
    cached = await hub.http.get(f"/v2/a/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'})
    assert cached.status == 304


async def test_a_blob_is_seen_only_where_it_is_linked(hub: Running) -> None:
    digest = await put_blob(hub, "a", b"data")
    assert (await hub.http.get(f"/v2/b/blobs/{digest}")).status == 404
    mounted = await hub.http.post(f"/v2/b/blobs/uploads/?mount={digest}&from=a")
    assert mounted.status == 201
    assert (await hub.http.get(f"/v2/b/blobs/{digest}")).status == 200
    unknown = await hub.http.post(f"/v2/b/blobs/uploads/?mount={sha(b'none')}&from=a")
    assert unknown.status == 202 and "Location" in unknown.headers
    assert (await hub.http.delete(f"/v2/b/blobs/{digest}")).status == 401


async def test_manifests_are_checked(hub: Running) -> None:
    config = b"{}"
    missing = await put_manifest(hub, "a", "1", manifest(config))
    assert missing.status == 400 and await code(missing) == "MANIFEST_BLOB_UNKNOWN"
    assert (await hub.http.get("/v2/a/tags/list")).status == 404
    await put_blob(hub, "a", config)
    data = manifest(config)
    for name, body, kind, expected in [
        ("1", b"{", OCI_MANIFEST, "MANIFEST_INVALID"),
        ("1", data, OCI_INDEX, "MANIFEST_INVALID"),
        ("1", b'{"schemaVersion": 1}', "", "MANIFEST_INVALID"),
        (sha(b"no"), data, OCI_MANIFEST, "DIGEST_INVALID"),
        ("1", b"x" * (5 * MB), OCI_MANIFEST, "SIZE_INVALID"),
    ]:
        answer = await hub.http.put(
            f"/v2/a/manifests/{name}", data=body, headers={"Content-Type": kind} if kind else {}
        )
        assert await code(answer) == expected, name
    done = await put_manifest(hub, "a", "1", data)
    assert done.status == 201 and done.headers["Docker-Content-Digest"] == sha(data)
    found = await hub.http.get("/v2/a/manifests/1")
    assert await found.read() == data and found.headers["Content-Type"] == OCI_MANIFEST
    head = await hub.http.head(f"/v2/a/manifests/{sha(data)}")
    assert head.status == 200 and head.headers["Content-Length"] == str(len(data))
    refused = await hub.http.get("/v2/a/manifests/1", headers={"Accept": OCI_INDEX})
    assert refused.status == 404
    assert (await hub.http.get("/v2/a/manifests/2")).status == 404


async def test_an_image_describes_its_repository(hub: Running) -> None:
    config = b'{"config": {"Labels": {"org.opencontainers.image.description": "A Small App"}}}'
    await put_blob(hub, "a", b"{}")
    await put_manifest(hub, "a", "0", manifest(b"{}"))
    await put_blob(hub, "a", config)
    await put_manifest(hub, "a", "1", manifest(config))
    found = await (await hub.http.get("/v1/search?q=small app")).json()
    assert [r["description"] for r in found["results"]] == ["A Small App"]
    await hub.hub.records.describe("a", description="Ours", readme="", private=False)
    await put_manifest(hub, "a", "2", manifest(config))
    repository = await hub.hub.records.repository("a")
    assert repository and repository.description == "Ours"


async def test_referrers_and_their_filter(hub: Running) -> None:
    await put_blob(hub, "a", b"{}")
    image = manifest(b"{}")
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(image), "size": len(image)}
    empty = await hub.http.get(f"/v2/a/referrers/{sha(image)}")
    assert empty.status == 200 and (await empty.json())["manifests"] == []
    signature = manifest(
        b"{}", subject=subject, artifactType="application/x-signature", annotations={"k": "v"}
    )
    document = json.loads(manifest(b"{}", subject=subject))
    document["config"]["mediaType"] = OCI_EMPTY
    sbom = json.dumps(document).encode()
    for data in (signature, sbom):
        done = await put_manifest(hub, "a", sha(data), data)
        assert done.status == 201 and done.headers["OCI-Subject"] == sha(image)
    found = await (await hub.http.get(f"/v2/a/referrers/{sha(image)}")).json(content_type=None)
    assert {m["digest"]: m["artifactType"] for m in found["manifests"]} == {
        sha(signature): "application/x-signature",
        sha(sbom): OCI_EMPTY,
    }
    filtered = await hub.http.get(
        f"/v2/a/referrers/{sha(image)}", params={"artifactType": "application/x-signature"}
    )
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    (only,) = (await filtered.json(content_type=None))["manifests"]
    assert only["annotations"] == {"k": "v"}


async def test_tags_and_catalog_are_paged(hub: Running) -> None:
    for repository in ("p/one", "p/two", "p/three"):
        await put_blob(hub, repository, b"{}")
        await put_manifest(hub, repository, "latest", manifest(b"{}"))
    for tag in "edcba":
        await put_manifest(hub, "p/one", tag, manifest(b"{}"))
    found: list[str] = []
    url = "/v2/p/one/tags/list?n=2"
    while url:
        answer = await hub.http.get(url)
        page = (await answer.json())["tags"]
        assert len(page) <= 2
        found += page
        url = str(answer.links["next"]["url"].relative()) if "next" in answer.links else ""
    assert found == ["a", "b", "c", "d", "e", "latest"]
    catalog = await hub.http.get("/v2/_catalog?n=2")
    assert (await catalog.json())["repositories"] == ["p/one", "p/three"]
    assert "last=p%2Fthree" in catalog.headers["Link"]
    assert (await hub.http.get("/v2/_catalog?n=x")).status == 400
    assert (await (await hub.http.get("/v2/p/one/tags/list?n=0")).json())["tags"] == []


async def test_deletion(closed_hub: Running) -> None:
    hub = closed_hub
    data = manifest(b"{}")
    url = "/v2/a/blobs/uploads/"
    assert (
        await hub.http.post(f"{url}?digest={sha(b'{}')}", data=b"{}", headers=hub.basic)
    ).status == 201
    for tag in ("1", "2"):
        done = await hub.http.put(
            f"/v2/a/manifests/{tag}",
            data=data,
            headers={"Content-Type": OCI_MANIFEST, **hub.basic},
        )
        assert done.status == 201
    in_use = await hub.http.delete(f"/v2/a/blobs/{sha(b'{}')}", headers=hub.basic)
    assert in_use.status == 409
    assert (await hub.http.delete("/v2/a/manifests/1")).status == 401
    assert (await hub.http.delete("/v2/a/manifests/1", headers=hub.basic)).status == 202
    assert (await hub.http.get("/v2/a/manifests/1")).status == 404
    assert (await hub.http.get("/v2/a/manifests/2")).status == 200
    assert (await hub.http.delete(f"/v2/a/manifests/{sha(data)}", headers=hub.basic)).status == 202
    assert (await hub.http.get("/v2/a/manifests/2")).status == 404
    assert (await hub.http.delete(f"/v2/a/blobs/{sha(b'{}')}", headers=hub.basic)).status == 202


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("/v2/UPPER/tags/list", 400, "NAME_INVALID"),
        ("/v2/a%2F..%2Fb/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/%2e%2e/b/manifests/x", 400, "NAME_INVALID"),
        ("/v2/" + "a" * 300 + "/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:xyz", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:..%2f..%2fetc", 404, "UNSUPPORTED"),
        ("/v2/a/blobs/md5:" + "0" * 32, 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/" + "t" * 200, 400, "MANIFEST_INVALID"),
        ("/v2/a/manifests/-bad", 400, "MANIFEST_INVALID"),
        ("/v2/a/blobs/uploads/..%2f..%2fhub.db", 404, "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/nothex", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/nothing/here", 404, "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
    ],
)
async def test_hostile_paths(hub: Running, path: str, status: int, expected: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, answer
    assert json.loads(body)["errors"][0]["code"] == expected


async def test_an_upload_that_breaks_off_is_kept_and_belongs_to_its_repository(
    hub: Running,
) -> None:
    begun = await hub.http.post("/v2/a/blobs/uploads/")
    location = begun.headers["Location"]
    _, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(
        f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".encode()
        + b"z" * 1_500_000
    )
    await writer.drain()
    busy = None
    upload = location.rsplit("/", 1)[1]
    for _ in range(500):
        claimed = await hub.hub.database.read(
            lambda sql: sql.one("SELECT state FROM uploads WHERE id = ?", upload)
        )
        if claimed == ("claimed",) or (await hub.hub.storage.size(upload) or 0) >= MB:
            busy = await hub.http.patch(location, data=b"x")
            break
        await asyncio.sleep(0.01)
    assert busy is not None and busy.status == 409
    writer.transport.abort()
    for _ in range(500):
        status = await hub.http.get(location)
        arrived = int(status.headers["Range"].split("-")[1]) + 1
        if arrived == 1_500_000:
            break
        await asyncio.sleep(0.01)
    assert arrived == 1_500_000
    other = location.replace("/a/", "/b/")
    assert (await hub.http.patch(other, data=b"x")).status == 404
    data = b"z" * 1_500_000 + b"end"
    for _ in range(100):
        done = await hub.http.put(f"{location}?digest={sha(data)}", data=b"end")
        if done.status != 409:
            break
        await asyncio.sleep(0.02)
    assert done.status == 201


@pytest.mark.parametrize("chunk_size", [0, 400_000])
async def test_our_client_pushes_and_pulls(
    hub: Running, source: ContentStore, target: ContentStore, tmp_path: Path, chunk_size: int
) -> None:
    images = {
        arch: make_image(source, [2 * MB, 10_000 + i], seed=i, architecture=arch)
        for i, arch in enumerate(("amd64", "arm64"))
    }
    index = make_index(source, images)
    ref = Reference.parse(f"{hub.host}/team/app:1")
    config = RegistryConfig(chunk_size=chunk_size, certs_dir=tmp_path)
    async with RegistryClient(config) as client:
        descriptor = await client.push(
            ref, auth=None, manifest_bytes=index, content=source, report=ignore
        )
        pulled = await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
        assert pulled.descriptor == descriptor
        seen: list[Progress] = []
        other = Reference.parse(f"{hub.host}/team/copy:1")
        layer = images["amd64"].layers[0]
        await client.push(
            other,
            auth=None,
            manifest_bytes=images["amd64"].manifest,
            content=source,
            report=seen.append,
            sources={layer: (ref,)},
        )
    assert "Mounted from team/app" in {p.status for p in seen}


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Podman refuses a run root with a long path."""
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        yield Path(folder)


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
async def test_podman_logs_in_pushes_pulls_and_searches(
    closed_hub: Running, tmp_path: Path, short_path: Path
) -> None:
    (tmp_path / "x").write_text("hello")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tmp_path / "x", "x")
    base = ["podman", "--root", short_path / "s", "--runroot", short_path / "r"]

    async def podman(*arguments: str | Path) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *base, "--storage-driver", "vfs", *arguments,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    insecure = ("--tls-verify=false", "--authfile", tmp_path / "auth.json")
    ref = f"{closed_hub.host}/pod/t:1"
    assert (await podman("import", tmp_path / "root.tar", "t:1"))[0] == 0
    assert "unauthorized" in (await podman("push", "--tls-verify=false", "t:1", ref))[1]
    login = ("login", *insecure, "-u", "admin", "-p")
    assert "invalid username/password" in (await podman(*login, "wrong", closed_hub.host))[1]
    assert "Login Succeeded" in (await podman(*login, closed_hub.password, closed_hub.host))[1]
    assert (await podman("push", *insecure, "t:1", ref))[0] == 0
    await podman("rmi", "t:1")
    assert (await podman("pull", "--tls-verify=false", ref))[0] == 0
    assert "pod/t" in (await podman("search", "--tls-verify=false", f"{closed_hub.host}/pod"))[1]
    log = await closed_hub.hub.activity.audit_log(10)
    assert ("admin", "push", "pod/t 1") in [(row[1], row[2], row[3]) for row in log]


async def test_skopeo_and_docker_registry_agree_with_us(
    hub: Running, client: RegistryClient, source: ContentStore, tmp_path: Path
) -> None:
    made = make_image(source, [100_000, 20], seed=3, docker=True)
    ref = Reference.parse(f"{hub.host}/app:1")
    await client.push(ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore)

    async def skopeo(*arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            "skopeo", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err
        return out

    insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    await skopeo("copy", "-q", *insecure, f"docker://{ref}", f"docker://{hub.host}/other:2")
    await skopeo("copy", "-q", "--src-tls-verify=false", f"docker://{ref}", f"oci:{tmp_path}/l:x")
    await skopeo(
        "copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/l:x", f"docker://{hub.host}/oci:3"
    )
    said = json.loads(await skopeo("inspect", "--tls-verify=false", f"docker://{hub.host}/other:2"))
    assert said["Digest"] == sha(made.manifest)
    found = await (await hub.http.get("/v1/search?q=oth")).json()
    assert [r["name"] for r in found["results"]] == ["other"]


async def test_foreign_layers_stay_where_their_urls_say(hub: Running) -> None:
    await put_blob(hub, "a", b"{}")
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

    async def push(urls: list[str], kind: str = kind) -> Any:
        layer = {"mediaType": kind, "digest": sha(b"foreign"), "size": 7, "urls": urls}
        return await put_manifest(hub, "a", "1", manifest(b"{}", layers=[layer]))

    assert (await push(["https://example.test/layer"])).status == 201
    oci = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    assert (await push(["http://example.test/layer"], oci)).status == 201
    for urls in (["file:///etc/passwd"], ["https:///layer"], ["https://a.test/x#y"], ["nothing"]):
        refused = await push(urls)
        assert refused.status == 400 and await code(refused) == "MANIFEST_INVALID", urls
    # Without an address, or with one for a layer of another kind, the blob must be here.
    assert await code(await push([])) == "MANIFEST_BLOB_UNKNOWN"
    plain = "application/vnd.oci.image.layer.v1.tar+gzip"
    assert await code(await push(["https://example.test/layer"], plain)) == "MANIFEST_BLOB_UNKNOWN"
    assert (await hub.http.get(f"/v2/a/blobs/{sha(b'foreign')}")).status == 404
