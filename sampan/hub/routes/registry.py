"""The distribution API under ``/v2/`` (OCI distribution-spec 1.1)."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from sampan.hub import failures
from sampan.hub.access import DELETE, PULL, PUSH
from sampan.hub.activity import Event
from sampan.hub.core import Hub
from sampan.hub.failures import RegistryError
from sampan.hub.logs import log_request
from sampan.hub.manifests import MAX_MANIFEST_BYTES, referrers
from sampan.hub.records import Actor
from sampan.hub.routes.paths import Target, parse
from sampan.hub.sendfile import send_blob
from sampan.hub.uploads import upload_headers
from sampan.image import digest as digests
from sampan.image import manifest as manifests
from sampan.image.reference import is_repository_path

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
_RANGE_RE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE_RE = re.compile(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?")
_API = {"Docker-Distribution-Api-Version": "registry/2.0"}

Handler = Callable[["RegistryApi", web.Request, Target], Awaitable[web.StreamResponse]]


def routes(hub: Hub) -> list[web.RouteDef]:
    api = RegistryApi(hub)
    return [web.route("*", "/v2/{path:.*}", api.dispatch), web.route("*", "/v2", api.dispatch)]


class RegistryApi:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._records = hub.records
        self._access = hub.access

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Find the handler by noun and method, and answer failures as the spec wants them."""
        started = time.perf_counter()
        noun = "unknown"
        try:
            target = parse(request.path[len("/v2/") :])
            noun = target.noun
            method = request.method
            handler = _HANDLERS.get((noun, method))
            if handler is None:
                raise failures.unsupported(f"{method} is not supported here")
            response = await handler(self, request, target)
        except ConnectionError:
            raise
        except (RegistryError, OSError, sqlite3.OperationalError) as exc:
            response = failures.of(exc).response()
            if request.body_exists and not request.content.is_eof():
                # The rest of a refused body is not read: the connection ends with the answer.
                response.force_close()
        if not response.prepared:
            response.headers.update(_API)
        metrics = self._hub.metrics
        spent = time.perf_counter() - started
        metrics.requests.labels(noun, request.method, response.status).inc()
        metrics.seconds.labels(noun).observe(spent)
        if self._hub.config.log_requests:
            log_request(request, self._access.address(request), response.status, spent)
        return response

    async def base(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Anonymous clients get a challenge, or they would never learn to log in."""
        if "Authorization" in request.headers:
            await self._access.identify(request)
        elif self._hub.config.anonymous != "push":
            raise self._access.challenge(request, "", ())
        return _json(b"{}")

    async def catalog(self, request: web.Request, target: Target) -> web.StreamResponse:
        who = await self._access.identify(request)
        if who.anonymous and self._hub.config.anonymous == "none":
            raise self._access.challenge(request, "", ())
        limit, last = _page(request)
        names = await self._records.repositories(last, limit + 1, private=who.admin)
        headers = _next_link("/v2/_catalog", limit, names)
        return _json(msgspec.json.encode({"repositories": names[:limit]}), headers)

    async def tags(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository = target.repository
        await self._access.authorize(request, repository, (PULL,))
        if await self._records.repository(repository) is None:
            raise failures.name_unknown(repository)
        limit, last = _page(request)
        found = [tag.name for tag in await self._records.tags(repository, last, limit + 1)]
        headers = _next_link(f"/v2/{repository}/tags/list", limit, found)
        body = {"name": repository, "tags": found[:limit]}
        return _json(msgspec.json.encode(body), headers)

    async def get_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository = target.repository
        await self._access.authorize(request, repository, (PULL,))
        if self._hub.upstream.covers(repository):
            await self._hub.upstream.manifest(repository, target.reference)
        found = await self._records.manifest(repository, target.reference)
        if found is None:
            raise failures.manifest_unknown(target.reference)
        if not _accepts(request, found.media_type):
            raise RegistryError(
                404,
                "MANIFEST_UNKNOWN",
                f"the manifest is of type {found.media_type}, which the client does not accept",
            )
        headers = {
            "Docker-Content-Digest": found.digest,
            "ETag": f'"{found.digest}"',
            "Content-Type": found.media_type,
            "X-Content-Type-Options": "nosniff",
        }
        if f'"{found.digest}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(found.content))
            return web.Response(headers=headers)
        self._hub.activity.pulled(repository)
        self._hub.metrics.pulls.inc()
        return web.Response(body=found.content, headers=headers)

    async def put_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository = target.repository
        who = await self._access.authorize(request, repository, (PULL, PUSH))
        self._refuse_cached(repository)
        data = await _read_manifest(request)
        accepted = await self._hub.manifests.put(
            repository,
            target.reference,
            data,
            request.headers.get("Content-Type", ""),
            actor=Actor(who.name, self._access.address(request)),
        )
        self._hub.activity.changed(
            Event(
                "push",
                repository,
                target.reference,
                accepted.digest,
                manifests.media_type_of(data),
                who.name,
            )
        )
        headers = {
            "Location": f"/v2/{repository}/manifests/{accepted.digest}",
            "Docker-Content-Digest": accepted.digest,
        }
        if accepted.subject:
            headers["OCI-Subject"] = accepted.subject
        return web.Response(status=201, headers=headers)

    async def delete_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository, reference = target.repository, target.reference
        who = await self._access.authorize(request, repository, (DELETE,))
        found = await self._records.manifest(repository, reference)
        if ":" in reference:
            deleted = await self._records.delete_manifest(repository, reference)
        else:
            deleted = await self._records.delete_tag(repository, reference)
        if not deleted or found is None:
            raise failures.manifest_unknown(reference)
        self._hub.activity.changed(
            Event("delete", repository, reference, found.digest, found.media_type, who.name)
        )
        await self._hub.activity.audit(
            who.name, "delete", f"{repository} {reference}", self._access.address(request)
        )
        return web.Response(status=202)

    async def get_blob(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository, digest = target.repository, target.reference
        await self._access.authorize(request, repository, (PULL,))
        size = await self._records.blob_size(repository, digest)
        if size is None and self._hub.upstream.covers(repository):
            await self._hub.upstream.blob(repository, digest)
            size = await self._records.blob_size(repository, digest)
        if size is None:
            raise failures.blob_unknown(digest)
        headers = {
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Cache-Control": "private, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
            **_API,
        }
        if request.method == "HEAD":
            await self._records.touch_link(repository, digest, self._hub.config.grace_seconds / 2)
            return web.Response(headers={**headers, "Content-Length": str(size)})
        if f'"{digest}"' in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        if self._hub.config.redirects and (url := await self._hub.storage.redirect(digest)):
            return web.Response(status=307, headers={**headers, "Location": url})
        wanted = _range(request, size)
        start, end = wanted or (0, size)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        response = web.StreamResponse(status=206 if wanted else 200, headers=headers)
        await self._send_blob(request, response, digest, start, end)
        self._hub.metrics.sent.inc(end - start)
        return response

    async def _send_blob(
        self, request: web.Request, response: web.StreamResponse, digest: str, start: int, end: int
    ) -> None:
        try:
            await send_blob(request, response, self._hub.storage, digest, start, end)
        except FileNotFoundError:
            raise failures.blob_unknown(digest) from None

    async def delete_blob(self, request: web.Request, target: Target) -> web.StreamResponse:
        await self._access.authorize(request, target.repository, (DELETE,))
        if not await self._records.unlink_blob(target.repository, target.reference):
            raise failures.blob_unknown(target.reference)
        return web.Response(status=202)

    async def begin_upload(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository, query = target.repository, request.query
        who = await self._access.authorize(request, repository, (PULL, PUSH))
        self._refuse_cached(repository)
        if "mount" in query:
            digest = _digest(query["mount"])
            source = query.get("from")
            if source is not None and await self._mount(request, source, repository, digest):
                return _created(repository, digest)
        upload = await self._hub.uploads.begin(repository, who.name)
        if "digest" in query:
            digest = _digest(query["digest"])
            await self._append(request, repository, who.name, upload)
            await self._hub.uploads.finish(repository, who.name, upload, digest)
            return _created(repository, digest)
        return web.Response(status=202, headers=upload_headers(repository, upload, 0))

    def _refuse_cached(self, repository: str) -> None:
        if self._hub.upstream.covers(repository):
            raise failures.unsupported("the repository is a cache of another registry's")

    async def _mount(self, request: web.Request, source: str, repository: str, digest: str) -> bool:
        """Whether the blob was linked from a repository that the client may read."""
        if not is_repository_path(source):
            return False
        try:
            await self._access.authorize(request, source, (PULL,))
        except RegistryError:
            return False
        return await self._records.mount_blob(source, repository, digest)

    async def upload_status(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository, upload = target.repository, target.reference
        who = await self._access.authorize(request, repository, (PULL, PUSH))
        size = await self._hub.uploads.size(repository, who.name, upload)
        return web.Response(status=204, headers=upload_headers(repository, upload, size))

    async def patch_upload(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository, upload = target.repository, target.reference
        who = await self._access.authorize(request, repository, (PULL, PUSH))
        size = await self._append(request, repository, who.name, upload)
        return web.Response(status=202, headers=upload_headers(repository, upload, size))

    async def finish_upload(self, request: web.Request, target: Target) -> web.StreamResponse:
        repository, upload = target.repository, target.reference
        who = await self._access.authorize(request, repository, (PULL, PUSH))
        digest = _digest(request.query.get("digest", ""))
        if request.body_exists:
            await self._append(request, repository, who.name, upload)
        await self._hub.uploads.finish(repository, who.name, upload, digest)
        return _created(repository, digest)

    async def cancel_upload(self, request: web.Request, target: Target) -> web.StreamResponse:
        who = await self._access.authorize(request, target.repository, (PULL, PUSH))
        await self._hub.uploads.cancel(target.repository, who.name, target.reference)
        return web.Response(status=204)

    async def _append(self, request: web.Request, repository: str, owner: str, upload: str) -> int:
        start, length = _content_range(request)
        metrics = self._hub.metrics
        before = await self._hub.uploads.size(repository, owner, upload)
        with metrics.uploads.track_inprogress():
            size = await self._hub.uploads.append(
                repository,
                owner,
                upload,
                request.content.iter_any(),
                start=start,
                length=length,
            )
        metrics.received.inc(max(size - before, 0))
        return size

    async def referrers(self, request: web.Request, target: Target) -> web.StreamResponse:
        await self._access.authorize(request, target.repository, (PULL,))
        wanted = request.query.get("artifactType")
        body = await referrers(self._records, target.repository, target.reference, wanted)
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted is not None else {}
        return web.Response(body=body, headers={**headers, "Content-Type": manifests.OCI_INDEX})


_HANDLERS: dict[tuple[str, str], Handler] = {
    ("base", "GET"): RegistryApi.base,
    ("base", "HEAD"): RegistryApi.base,
    ("catalog", "GET"): RegistryApi.catalog,
    ("tags", "GET"): RegistryApi.tags,
    ("manifests", "GET"): RegistryApi.get_manifest,
    ("manifests", "HEAD"): RegistryApi.get_manifest,
    ("manifests", "PUT"): RegistryApi.put_manifest,
    ("manifests", "DELETE"): RegistryApi.delete_manifest,
    ("blobs", "GET"): RegistryApi.get_blob,
    ("blobs", "HEAD"): RegistryApi.get_blob,
    ("blobs", "DELETE"): RegistryApi.delete_blob,
    ("uploads", "POST"): RegistryApi.begin_upload,
    ("upload", "GET"): RegistryApi.upload_status,
    ("upload", "PATCH"): RegistryApi.patch_upload,
    ("upload", "PUT"): RegistryApi.finish_upload,
    ("upload", "DELETE"): RegistryApi.cancel_upload,
    ("referrers", "GET"): RegistryApi.referrers,
}


def _json(body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers=headers)


def _created(repository: str, digest: str) -> web.Response:
    return web.Response(
        status=201,
        headers={
            "Location": f"/v2/{repository}/blobs/{digest}",
            "Docker-Content-Digest": digest,
        },
    )


def _digest(text: str) -> str:
    if not digests.is_digest(text):
        raise failures.digest_invalid("invalid digest")
    return text


def _page(request: web.Request) -> tuple[int, str]:
    """``n`` and ``last``.  Raises RegistryError."""
    text = request.query.get("n", str(PAGE_SIZE))
    if not text.isdecimal() or len(text) > 9:
        raise RegistryError(
            400,
            "PAGINATION_NUMBER_INVALID",
            "invalid number of results requested",
            {"n": text[:20]},
        )
    return min(int(text), MAX_PAGE_SIZE), request.query.get("last", "")


def _next_link(path: str, limit: int, found: list[str]) -> dict[str, str]:
    """A Link to the next page when one more than ``limit`` was found."""
    if not limit or len(found) <= limit:
        return {}
    query = urlencode({"n": limit, "last": found[limit - 1]})
    return {"Link": f'<{quote(path)}?{query}>; rel="next"'}


def _accepts(request: web.Request, media_type: str) -> bool:
    values = request.headers.getall("Accept", [])
    if not values:
        return True
    wanted = [part.partition(";")[0].strip() for value in values for part in value.split(",")]
    return any(w in ("*/*", "application/*", media_type) for w in wanted)


async def _read_manifest(request: web.Request) -> bytes:
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > MAX_MANIFEST_BYTES:
            raise RegistryError(
                413, "SIZE_INVALID", f"a manifest has at most {MAX_MANIFEST_BYTES} bytes"
            )
    return bytes(data)


def _range(request: web.Request, size: int) -> tuple[int, int] | None:
    """The bytes asked for, as [start, end); None means all of it, also for several ranges and
    other units (RFC 9110, 14.2).  Raises RegistryError (416)."""
    header = request.headers.get("Range", "")
    match = _RANGE_RE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= size or start >= end:
        raise RegistryError(
            416,
            "SIZE_INVALID",
            "the range is not within the blob",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


def _content_range(request: web.Request) -> tuple[int | None, int | None]:
    """Where the chunk begins and how long it is, if the client says.  Raises RegistryError."""
    header = request.headers.get("Content-Range")
    if header is None:
        return None, None
    match = _CONTENT_RANGE_RE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise failures.upload_invalid("invalid Content-Range", 416)
    return int(match[1]), int(match[2]) - int(match[1]) + 1
