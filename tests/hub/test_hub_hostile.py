"""Whatever a client sends, it is answered in the spec's terms."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import tarfile
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sampan.hub.failures import RegistryError
from sampan.hub.routes.paths import parse
from sampan.image.manifest import OCI_LAYER
from sampan.image.reference import is_repository_path
from sampan.registry.authorizer import parse_challenges
from tests.hub.conftest import Running
from tests.hub.test_hub_registry import manifest, put_blob, put_manifest, sha

SEGMENT = st.sampled_from(
    ["a", "b-c", "..", ".", "", "blobs", "uploads", "manifests", "tags", "list", "referrers",
     "_catalog", "sha256:" + "0" * 64, "0" * 32, "latest", "A", "%2e", "\x00", "é"]
)  # fmt: skip


@given(st.lists(SEGMENT, max_size=8).map("/".join) | st.text(max_size=60))
def test_a_path_is_valid_or_refused(path: str) -> None:
    try:
        target = parse(path)
    except RegistryError as exc:
        assert 400 <= exc.status < 500
        return
    assert target.noun in ("base", "catalog") or is_repository_path(target.repository)
    assert re.fullmatch(r"[A-Za-z0-9_.:-]*", target.reference)


@given(st.lists(st.text(max_size=40), max_size=3))
def test_challenges_of_any_kind_are_read(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Authorization", "Basic !!!"),
        ("Authorization", "Bearer " + "x" * 5000),
        ("Authorization", "Nonsense"),
        ("Range", "bytes=9999999999999999999999-"),
        ("Range", "bytes=5-2"),
        ("If-None-Match", '"' + "x" * 5000),
        ("Accept", "," * 2000),
    ],
)
async def test_odd_headers(file_hub: Running, header: str, value: str) -> None:
    digest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    await file_hub.http.post(f"/v2/a/blobs/uploads/?digest={digest}", data=b"foo")
    answer = await file_hub.http.get(f"/v2/a/blobs/{digest}", headers={header: value})
    assert answer.status in (200, 401, 416)
    if answer.status != 200:
        assert (await answer.json())["errors"][0]["code"]


async def test_a_page_for_no_image_and_odd_queries(file_hub: Running) -> None:
    for path in (
        "/search?q=%00&page=-1",
        "/search?page=99999999999999",
        "/r/%2e%2e/x",
        "/language/xx",
        "/r/a/-/files/sha256:0",
        "/r/a/-/diff",
        "/v1/search?n=-5&page=x",
        "/token?scope=%00&scope=repository:a:*",
    ):
        answer = await file_hub.http.get(path)
        assert answer.status in (200, 404), path


async def send(port: int, head: str, body: AsyncIterator[bytes]) -> tuple[bytes, int]:
    """Send a request whose body may have no end; the answer, and how much was sent before it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode())
    sent = 0

    async def pour() -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            async for data in body:
                writer.write(data)
                await writer.drain()
                sent += len(data)

    pouring = asyncio.create_task(pour())
    try:
        answer = await asyncio.wait_for(reader.read(4096), 30)
    finally:
        pouring.cancel()
        writer.transport.abort()
    return answer, sent


async def without_end(chunked: bool) -> AsyncIterator[bytes]:
    block = b"x" * 65536
    while True:
        yield b"10000\r\n" + block + b"\r\n" if chunked else block


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_manifest_of_four_gigabytes_is_refused_early(
    file_hub: Running, chunked: bool
) -> None:
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {4 << 30}"
    head = f"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n"
    answer, sent = await send(file_hub.port, head, without_end(chunked))
    assert answer.startswith(b"HTTP/1.1 413 ") and b"SIZE_INVALID" in answer
    # The limit, and what the sockets on both sides hold.
    assert sent < 32 << 20
    assert (await file_hub.http.get("/v2/")).status == 200


async def test_two_clients_finish_one_upload_and_one_of_them_has(hub: Running) -> None:
    data = bytes(range(256)) * 3000
    for _ in range(5):
        begun = await hub.http.post("/v2/a/blobs/uploads/")
        location = begun.headers["Location"]
        await hub.http.patch(location, data=data)
        wrong = await hub.http.put(f"{location}?digest=sha256:x")
        assert wrong.status == 400
        answers = await asyncio.gather(
            *(hub.http.put(f"{location}?digest={sha(data)}") for _ in range(4))
        )
        statuses = sorted(answer.status for answer in answers)
        assert statuses[0] == 201 and set(statuses) <= {201, 404, 409}, statuses
        got = await hub.http.get(f"/v2/a/blobs/{sha(data)}")
        assert await got.read() == data


async def test_an_upload_that_two_write_to_is_what_one_of_them_wrote(hub: Running) -> None:
    begun = await hub.http.post("/v2/a/blobs/uploads/")
    location = begun.headers["Location"]
    parts = [bytes([number]) * 500_000 for number in range(1, 5)]
    answers = await asyncio.gather(
        *(
            hub.http.patch(location, data=part, headers={"Content-Range": "0-499999"})
            for part in parts
        )
    )
    good = [part for part, answer in zip(parts, answers, strict=True) if answer.status == 202]
    assert {answer.status for answer in answers} <= {202, 409, 416} and len(good) == 1
    done = await hub.http.put(f"{location}?digest={sha(good[0])}")
    assert done.status == 201


async def test_what_an_image_says_of_itself_is_shown_as_text(file_hub: Running) -> None:
    evil = "<script>alert(1)</script>"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (evil, f"{evil}/{evil}"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, evil
        tar.addfile(link)
    layer = buffer.getvalue()
    config = json.dumps(
        {
            "os": evil,
            "architecture": evil,
            "author": evil,
            "created": evil,
            "config": {"Env": [f"{evil}={evil}"], "Cmd": [evil], "Labels": {evil: evil}},
            "history": [{"created_by": evil}, {"comment": evil, "empty_layer": True}],
        }
    ).encode()
    await put_blob(file_hub, "a", layer)
    await put_blob(file_hub, "a", config)
    layers = [{"mediaType": OCI_LAYER, "digest": sha(layer), "size": len(layer)}]
    for tag in ("1", "2"):
        notes = {"org.opencontainers.image.description": evil, evil: evil, "tag": tag}
        body = manifest(config, layers=layers, annotations=notes)
        assert (await put_manifest(file_hub, "a", tag, body)).status == 201
    refused = await put_manifest(file_hub, "a", "%3Cscript%3E", manifest(config))
    assert refused.status == 400
    for path in (
        "/",
        "/search?q=script",
        "/r/a",
        "/r/a/-/tags/1",
        f"/r/a/-/files/{sha(layer)}",
        f"/r/a/-/files/{sha(layer)}?path={quote(evil)}",
        "/r/a/-/diff?from=1&to=2",
        f"/r/a/-/diff?from=1&to={quote(evil)}",
        f"/r/a/-/tags/{quote(evil, safe='')}",
    ):
        answer = await file_hub.http.get(URL(path, encoded=True))
        text = await answer.text()
        assert answer.status in (200, 404) and "<script>alert" not in text, path
