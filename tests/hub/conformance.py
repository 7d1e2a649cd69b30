"""What the OCI distribution-spec 1.1 asks of a registry, by its four categories, as a table of
small checks that run against any registry.

A check talks plain HTTP and raises AssertionError when the answer is not one that the spec allows.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tests.hub.test_hub_registry import sha

Check = Callable[["Api"], Awaitable[None]]
CHECKS: dict[str, Check] = {}


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def code(self) -> str:
        """The first error's code."""
        return str(json.loads(self.body)["errors"][0]["code"])

    def must(self, *statuses: int) -> Answer:
        assert self.status in statuses, f"{self.status}, not {statuses}: {self.body[:200]!r}"
        return self


class Api:
    """A registry under test, and a repository of its own for each check."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.name = f"conformance/{secrets.token_hex(6)}"

    async def call(
        self, method: str, path: str, data: bytes | None = None, **headers: str
    ) -> Answer:
        """``path`` is under /v2/, or a Location."""
        if path.startswith("http"):
            parts = urlsplit(path)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
        url = path if path.startswith("/") else f"/v2/{path}"
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        async with self._http.request(method, url, data=data, headers=named) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def begin(self, name: str = "") -> str:
        begun = (await self.call("POST", f"{name or self.name}/blobs/uploads/")).must(202)
        assert begun.headers["Location"]
        return str(begun.headers["Location"])

    async def put_blob(self, data: bytes, name: str = "") -> str:
        location = await self.begin(name)
        done = await self.call(
            "PUT", with_query(location, digest=sha(data)), data,
            Content_Type="application/octet-stream",
        )  # fmt: skip
        done.must(201)
        return sha(data)

    async def put_manifest(
        self, reference: str, body: dict[str, Any] | bytes, kind: str = OCI_MANIFEST
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.call(
            "PUT", f"{self.name}/manifests/{reference or sha(data)}", data, Content_Type=kind
        )

    async def image(self, tag: str = "", **more: Any) -> bytes:
        """A small image; its manifest's bytes."""
        config = {"mediaType": OCI_CONFIG, "digest": await self.put_blob(b"{}"), "size": 2}
        layer = {"mediaType": OCI_LAYER, "digest": await self.put_blob(b"layer"), "size": 5}
        body = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config,
            "layers": [layer],
            **more,
        }
        data = json.dumps(body).encode()
        (await self.put_manifest(tag, data)).must(201)
        return data


def with_query(location: str, **values: str) -> str:
    query = "&".join(f"{key}={value}" for key, value in values.items())
    return location + ("&" if "?" in location else "?") + query


def check(category: str) -> Callable[[Check], Check]:
    def add(function: Check) -> Check:
        CHECKS[f"{category}: {function.__name__.replace('_', ' ')}"] = function
        return function

    return add


@check("pull")
async def the_api_answers(api: Api) -> None:
    (await api.call("GET", "")).must(200)


@check("pull")
async def blobs_that_are_not_there(api: Api) -> None:
    for method in ("HEAD", "GET"):
        (await api.call(method, f"{api.name}/blobs/{sha(b'none')}")).must(404)


@check("pull")
async def blobs_by_digest(api: Api) -> None:
    digest = await api.put_blob(b"content")
    head = (await api.call("HEAD", f"{api.name}/blobs/{digest}")).must(200)
    assert head.headers["Content-Length"] == "7"
    assert head.headers["Docker-Content-Digest"] == digest
    got = (await api.call("GET", f"{api.name}/blobs/{digest}")).must(200)
    assert got.body == b"content"


@check("pull")
async def parts_of_blobs(api: Api) -> None:
    digest = await api.put_blob(b"0123456789")
    part = (await api.call("GET", f"{api.name}/blobs/{digest}", Range="bytes=2-4")).must(206)
    assert part.body == b"234" and part.headers["Content-Range"] == "bytes 2-4/10"
    (await api.call("GET", f"{api.name}/blobs/{digest}", Range="bytes=10-")).must(416)


@check("pull")
async def manifests_that_are_not_there(api: Api) -> None:
    await api.image("1")
    for reference in ("none", sha(b"none")):
        (await api.call("HEAD", f"{api.name}/manifests/{reference}")).must(404)
        missing = (await api.call("GET", f"{api.name}/manifests/{reference}")).must(404)
        assert missing.code == "MANIFEST_UNKNOWN"


@check("pull")
async def manifests_by_tag_and_digest(api: Api) -> None:
    data = await api.image("1")
    for reference in ("1", sha(data)):
        got = (
            await api.call("GET", f"{api.name}/manifests/{reference}", Accept=OCI_MANIFEST)
        ).must(200)
        assert got.body == data and got.headers["Content-Type"] == OCI_MANIFEST
        assert got.headers["Docker-Content-Digest"] == sha(data)
        head = (
            await api.call("HEAD", f"{api.name}/manifests/{reference}", Accept=OCI_MANIFEST)
        ).must(200)
        assert head.headers["Content-Length"] == str(len(data))


@check("pull")
async def names_that_cannot_be(api: Api) -> None:
    refused = (await api.call("GET", "UPPER/manifests/1")).must(400, 404)
    assert refused.code in ("NAME_INVALID", "NAME_UNKNOWN")


@check("push")
async def a_blob_in_one_request(api: Api) -> None:
    digest = sha(b"whole")
    done = await api.call(
        "POST", f"{api.name}/blobs/uploads/?digest={digest}", b"whole",
        Content_Type="application/octet-stream",
    )  # fmt: skip
    done.must(201, 202)
    if done.status == 202:
        location = with_query(done.headers["Location"], digest=digest)
        done = (await api.call("PUT", location, b"whole")).must(201)
    got = await api.call("GET", done.headers["Location"])
    assert got.must(200).body == b"whole"


@check("push")
async def a_blob_in_chunks(api: Api) -> None:
    location = await api.begin()
    for begin, part in ((0, b"first "), (6, b"second ")):
        sent = await api.call(
            "PATCH", location, part, Content_Range=f"{begin}-{begin + len(part) - 1}",
            Content_Type="application/octet-stream",
        )  # fmt: skip
        assert sent.must(202).headers["Range"] == f"0-{begin + len(part) - 1}"
        location = sent.headers["Location"]
    status = (await api.call("GET", location)).must(204)
    assert status.headers["Range"] == "0-12"
    whole = b"first second third"
    done = await api.call(
        "PUT", with_query(status.headers["Location"], digest=sha(whole)), b"third",
        Content_Range="13-17", Content_Type="application/octet-stream",
    )  # fmt: skip
    got = await api.call("GET", done.must(201).headers["Location"])
    assert got.must(200).body == whole


@check("push")
async def chunks_out_of_order(api: Api) -> None:
    location = await api.begin()
    sent = (await api.call("PATCH", location, b"abc", Content_Range="0-2")).must(202)
    location = sent.headers["Location"]
    (await api.call("PATCH", location, b"x", Content_Range="7-7")).must(416)
    (await api.call("GET", location)).must(204)


@check("push")
async def a_digest_that_does_not_fit(api: Api) -> None:
    location = await api.begin()
    done = await api.call("PUT", with_query(location, digest=sha(b"other")), b"data")
    assert done.must(400).code == "DIGEST_INVALID"
    (await api.call("HEAD", f"{api.name}/blobs/{sha(b'other')}")).must(404)


@check("push")
async def an_upload_that_is_cancelled(api: Api) -> None:
    location = await api.begin()
    (await api.call("DELETE", location)).must(204)
    (await api.call("GET", location)).must(404)


@check("push")
async def a_mount_from_another_repository(api: Api) -> None:
    other = api.name + "-other"
    digest = await api.put_blob(b"shared", other)
    query = f"{api.name}/blobs/uploads/?mount={digest}&from={other}"
    done = (await api.call("POST", query)).must(201, 202)
    if done.status == 201:
        assert (await api.call("GET", f"{api.name}/blobs/{digest}")).must(200).body == b"shared"
    missing = f"{api.name}/blobs/uploads/?mount={sha(b'none')}&from={other}"
    assert (await api.call("POST", missing)).must(202).headers["Location"]


@check("push")
async def a_mount_that_says_no_source(api: Api) -> None:
    digest = await api.put_blob(b"shared", api.name + "-other")
    (await api.call("POST", f"{api.name}/blobs/uploads/?mount={digest}")).must(201, 202)


@check("push")
async def a_manifest_and_its_location(api: Api) -> None:
    data = await api.image("1")
    done = (await api.put_manifest("2", data)).must(201)
    assert (await api.call("GET", done.headers["Location"], Accept=OCI_MANIFEST)).body == data


@check("push")
async def a_manifest_that_names_a_missing_blob(api: Api) -> None:
    config = {"mediaType": OCI_CONFIG, "digest": sha(b"none"), "size": 4}
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    refused = (await api.put_manifest("1", body)).must(400, 404)
    assert refused.code in ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN")


@check("push")
async def an_index_and_its_manifests(api: Api) -> None:
    data = await api.image()
    child = {"mediaType": OCI_MANIFEST, "digest": sha(data), "size": len(data)}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}
    (await api.put_manifest("1", index, OCI_INDEX)).must(201)
    got = await api.call("GET", f"{api.name}/manifests/1", Accept=OCI_INDEX)
    assert json.loads(got.must(200).body) == index


@check("push")
async def a_manifest_that_is_none(api: Api) -> None:
    for data in (b"{", b"[]", b'{"schemaVersion": 2}'):
        assert (await api.put_manifest("1", data)).must(400).code == "MANIFEST_INVALID"


@check("push")
async def a_manifest_under_another_digest(api: Api) -> None:
    data = await api.image()
    refused = (await api.put_manifest(sha(b"other"), data)).must(400)
    assert refused.code == "DIGEST_INVALID"


@check("push")
async def a_manifest_with_a_subject_is_told_so(api: Api) -> None:
    image = await api.image()
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(image), "size": len(image)}
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha(b"{}"), "size": 2}
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [],
            "artifactType": "application/x-note", "subject": subject}  # fmt: skip
    done = (await api.put_manifest("", body)).must(201)
    assert done.headers["OCI-Subject"] == sha(image)


@check("push")
async def a_manifest_whose_subject_comes_later(api: Api) -> None:
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(b"later"), "size": 5}
    await api.image("1", subject=subject)


@check("push")
async def a_blob_by_sha512(api: Api) -> None:
    import hashlib

    digest = "sha512:" + hashlib.sha512(b"long").hexdigest()
    location = await api.begin()
    (await api.call("PUT", with_query(location, digest=digest), b"long")).must(201)
    assert (await api.call("GET", f"{api.name}/blobs/{digest}")).must(200).body == b"long"


@check("discovery")
async def tags_in_order_and_in_pages(api: Api) -> None:
    data = await api.image("test2")
    for tag in ("test10", "Test1", "test1", "0"):
        (await api.put_manifest(tag, data)).must(201)
    every = json.loads((await api.call("GET", f"{api.name}/tags/list")).must(200).body)
    assert every == {"name": api.name, "tags": sorted(["test2", "test10", "Test1", "test1", "0"])}
    page = (await api.call("GET", f"{api.name}/tags/list?n=2")).must(200)
    assert json.loads(page.body)["tags"] == every["tags"][:2]
    assert 'rel="next"' in page.headers["Link"]
    following = page.headers["Link"].partition("<")[2].partition(">")[0]
    assert json.loads((await api.call("GET", following)).body)["tags"] == every["tags"][2:4]
    last = await api.call("GET", f"{api.name}/tags/list?n=9&last={every['tags'][3]}")
    assert json.loads(last.must(200).body)["tags"] == every["tags"][4:]
    none = (await api.call("GET", f"{api.name}/tags/list?n=0")).must(200)
    assert json.loads(none.body)["tags"] in ([], None)


@check("discovery")
async def tags_of_no_repository(api: Api) -> None:
    assert (await api.call("GET", f"{api.name}/tags/list")).must(404).code == "NAME_UNKNOWN"


@check("discovery")
async def referrers_of_nothing_are_an_empty_index(api: Api) -> None:
    await api.image("1")
    none = (await api.call("GET", f"{api.name}/referrers/{sha(b'none')}")).must(200)
    assert none.headers["Content-Type"] == OCI_INDEX
    assert json.loads(none.body)["manifests"] == []


@check("discovery")
async def referrers_and_their_filter(api: Api) -> None:
    image = await api.image()
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(image), "size": len(image)}
    for kind in ("application/x-one", "application/x-two"):
        config = {"mediaType": kind, "digest": sha(b"{}"), "size": 2}
        await api.image(subject=subject, config=config, annotations={"kind": kind})
    path = f"{api.name}/referrers/{sha(image)}"
    found = json.loads((await api.call("GET", path)).must(200).body)["manifests"]
    assert {m["artifactType"] for m in found} == {"application/x-one", "application/x-two"}
    one = (await api.call("GET", path + "?artifactType=application/x-one")).must(200)
    (only,) = json.loads(one.body)["manifests"]
    assert only["annotations"] == {"kind": "application/x-one"}
    assert one.headers["OCI-Filters-Applied"] == "artifactType"


@check("discovery")
async def referrers_of_no_digest(api: Api) -> None:
    (await api.call("GET", f"{api.name}/referrers/nothing")).must(400)


@check("management")
async def tags_are_deleted(api: Api) -> None:
    data = await api.image("1")
    (await api.call("DELETE", f"{api.name}/manifests/1")).must(202)
    (await api.call("GET", f"{api.name}/manifests/1")).must(404)
    (await api.call("GET", f"{api.name}/manifests/{sha(data)}", Accept=OCI_MANIFEST)).must(200)


@check("management")
async def manifests_are_deleted_with_their_tags(api: Api) -> None:
    data = await api.image("1")
    (await api.call("DELETE", f"{api.name}/manifests/{sha(data)}")).must(202)
    for reference in ("1", sha(data)):
        (await api.call("GET", f"{api.name}/manifests/{reference}")).must(404)
    (await api.call("DELETE", f"{api.name}/manifests/{sha(data)}")).must(404)


@check("management")
async def blobs_are_deleted(api: Api) -> None:
    digest = await api.put_blob(b"unused")
    (await api.call("DELETE", f"{api.name}/blobs/{digest}")).must(202)
    (await api.call("GET", f"{api.name}/blobs/{digest}")).must(404)
    (await api.call("DELETE", f"{api.name}/blobs/{digest}")).must(404)


@check("management")
async def a_deleted_referrer_is_listed_no_more(api: Api) -> None:
    image = await api.image()
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(image), "size": len(image)}
    note = await api.image(subject=subject, annotations={"a": "note"})
    (await api.call("DELETE", f"{api.name}/manifests/{sha(note)}")).must(202)
    left = (await api.call("GET", f"{api.name}/referrers/{sha(image)}")).must(200)
    assert json.loads(left.body)["manifests"] == []
