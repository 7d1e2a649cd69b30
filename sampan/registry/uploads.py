"""One blob from the content store to a registry: offered, mounted, or uploaded and resumed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from sampan.errors import NotFound, Unauthorized, Unavailable
from sampan.image import digest as digests
from sampan.image.manifest import Descriptor
from sampan.registry import failures
from sampan.registry.authorizer import repository_scope
from sampan.registry.transport import Answer, Remote, backoff_seconds

PROGRESS_SECONDS = 0.1
_RANGE_RE = re.compile(r"(?:bytes=)?0-(\d+)")


class BlobSource(Protocol):
    """Where a blob's bytes come from."""

    def has(self, digest: str) -> bool:
        """Whether the bytes are here."""

    def read(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes [start, end)."""


class BlobUpload:
    """Brings one blob to repository ``path``; :meth:`run` says how it got there."""

    def __init__(
        self,
        remote: Remote,
        path: str,
        blob: Descriptor,
        source: BlobSource,
        mount_from: Sequence[str],
        sent: Callable[[int], None],
    ) -> None:
        self._remote = remote
        self._path = path
        self._blob = blob
        self._source = source
        self._mount_from = mount_from
        self._sent = sent
        self._scopes = (repository_scope(path, "pull,push"),)
        self._what = f"push of blob {digests.short(blob.digest)} to {remote.endpoint.host}/{path}"

    async def exists(self) -> bool:
        answer = await self._remote.call(
            "HEAD", f"v2/{self._path}/blobs/{self._blob.digest}", scopes=self._scopes
        )
        if answer.status in (401, 403):
            raise push_refused(self._path, answer)
        return answer.status == 200

    async def run(self) -> str:
        """Returns Docker's status: "Layer already exists", "Mounted from X" or "Pushed".

        Raises Unauthorized, Unavailable, InvalidParameter, NotFound (the blob is not here).
        """
        if await self.exists():
            return "Layer already exists"
        location = None
        for source in self._mount_from:
            mounted, location = await self._mount(source)
            if mounted:
                return f"Mounted from {source}"
            if location:
                break
        if not self._source.has(self._blob.digest):
            raise NotFound(f"{self._what} failed: its content is not here; pull the image again")
        await self._upload(location)
        return "Pushed"

    async def _mount(self, source: str) -> tuple[bool, str | None]:
        """Try a cross-repository mount: done, or the session that the registry began instead."""
        query = f"mount={self._blob.digest}&from={source}"
        try:
            answer = await self._remote.call(
                "POST",
                f"v2/{self._path}/blobs/uploads/?{query}",
                scopes=(*self._scopes, repository_scope(source, "pull")),
            )
        except Unauthorized:
            # No right to read the source: the blob is uploaded instead.
            return False, None
        if answer.status == 201:
            return True, None
        return False, self._location(answer) if answer.status == 202 else None

    async def _upload(self, location: str | None) -> None:
        failed = 0
        offset = 0
        while True:
            try:
                if location is None:
                    location, offset = await self._begin(), 0
                await self._send(location, offset)
                return
            except failures.Transient as exc:
                failed += 1
                if failed >= self._remote.config.attempts:
                    raise exc.cause from exc
                await asyncio.sleep(backoff_seconds(self._remote.config, failed, exc.retry_after))
                arrived = await self._arrived(location) if location else None
                if arrived is not None and arrived[1] > offset:
                    failed = 1
                location, offset = arrived or (None, 0)
                if await self.exists():
                    # The answer to a finished upload was lost on its way.
                    return

    async def _begin(self) -> str:
        answer = await self._remote.once(
            "POST", f"v2/{self._path}/blobs/uploads/", scopes=self._scopes
        )
        if answer.status != 202:
            raise self._refusal(answer)
        return self._location(answer)

    async def _arrived(self, location: str) -> tuple[str, int] | None:
        """Where to go on and from which byte; None when the session is gone."""
        try:
            answer = await self._remote.once("GET", location, scopes=self._scopes)
        except failures.Transient:
            return None
        match = _RANGE_RE.fullmatch(answer.headers.get("Range", ""))
        if answer.status != 204 or match is None:
            return None
        last = int(match[1])
        # "0-0" is said for an empty session as well as for one byte: begin anew then.
        return (self._location(answer), last + 1) if last else None

    async def _send(self, location: str, offset: int) -> None:
        size, chunk = self._blob.size, self._remote.config.chunk_size
        if not chunk and not offset:
            await self._put(location, 0, size)
            return
        while offset < size:
            end = min(size, offset + chunk) if chunk else size
            answer = await self._request("PATCH", location, offset, end, ranged=True)
            if answer.status not in (202, 204):
                raise self._refusal(answer)
            location, offset = self._location(answer), end
        await self._put(location, size, size)

    async def _put(self, location: str, start: int, end: int) -> None:
        parts = urlsplit(location)
        query = f"{parts.query}&" if parts.query else ""
        target = urlunsplit(parts._replace(query=f"{query}digest={self._blob.digest}"))
        answer = await self._request("PUT", target, start, end, ranged=False)
        if answer.status not in (201, 204):
            raise self._refusal(answer)

    async def _request(
        self, method: str, url: str, start: int, end: int, *, ranged: bool
    ) -> Answer:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - start),
        }
        if ranged:
            headers["Content-Range"] = f"{start}-{end - 1}"
        return await self._remote.once(
            method,
            url,
            scopes=self._scopes,
            headers=headers,
            body=(lambda: self._read(start, end)) if end > start else None,
        )

    async def _read(self, start: int, end: int) -> AsyncIterator[bytes]:
        told = time.monotonic()
        async for data in self._source.read(self._blob.digest, start, end):
            yield data
            start += len(data)
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                self._sent(start)
        if start < end:
            raise Unavailable(f"{self._what} failed: the blob is shorter than it should be")

    def _location(self, answer: Answer) -> str:
        location = answer.headers.get("Location", "")
        if not location:
            raise Unavailable(f"{self._what} failed: the registry named no upload location")
        return urljoin(answer.url, location)

    def _refusal(self, answer: Answer) -> Exception:
        if answer.status in (401, 403):
            return push_refused(self._path, answer)
        if answer.status == 404:
            # The session is gone (expired, or another node): a new one may do.
            return failures.Transient(
                Unavailable(f"{self._what} failed: {failures.explain(404, answer.body)}")
            )
        return failures.of_status(answer.status, answer.body, self._what)


def push_refused(path: str, answer: Answer) -> Unauthorized:
    """Docker's sentence for a push without the right to it."""
    said = failures.explain(answer.status, answer.body)
    return Unauthorized(
        f"push access denied for {path}, repository does not exist or may require "
        f"authorization: {said}"
    )
