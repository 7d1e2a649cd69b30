"""Blobs from a registry into the content store: resumed, verified, shared between pulls."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from sampan.errors import NotFound, SampanError, Unavailable
from sampan.image import digest as digests
from sampan.image.manifest import Descriptor
from sampan.registry import failures
from sampan.registry.transport import Remote, backoff_seconds

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from sampan.store.content import ContentStore, Ingest

BATCH_BYTES = 1 << 20
PROGRESS_SECONDS = 0.1
PROGRESS_BYTES = 64 << 10
"""An attempt that brought at least this much counts as a success for the retry budget."""

_CONTENT_RANGE_RE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

Listener: TypeAlias = Callable[[str, int], None]
"""Called with a status of Docker's and the number of bytes that are here."""


@dataclass(eq=False)
class _Flight:
    """One download under way, and those who wait for it."""

    listeners: list[Listener] = field(default_factory=list)
    waiting: int = 0
    given_up: bool = False
    task: asyncio.Task[None] | None = None
    status: str = "Waiting"
    current: int = 0

    def tell(self, status: str, current: int) -> None:
        self.status, self.current = status, current
        for listener in self.listeners:
            listener(status, current)


class Downloads:
    """All blob downloads of a client: bounded in number, and one for each blob.

    A blob that two pulls want is fetched once; it goes on as long as one of them waits.
    """

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._flights: dict[tuple[int, str], _Flight] = {}

    async def fetch(
        self,
        remote: Remote,
        path: str,
        blob: Descriptor,
        scopes: tuple[str, ...],
        content: ContentStore,
        listener: Listener,
    ) -> None:
        """Return when ``blob`` of repository ``path`` is in ``content``.

        Raises NotFound, Unauthorized, Unavailable, DiskFull.  What was received of a download
        that failed or was cancelled is kept in the store, and the next one goes on from there.
        """
        key = (id(content), blob.digest)
        while not content.has(blob.digest):
            flight = self._flights.get(key)
            ours = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
                flight.task = asyncio.create_task(
                    self._run(key, flight, _Download(remote, path, blob, scopes, content))
                )
            elif flight.given_up:
                # It only puts away what it has, for us to go on from.
                assert flight.task is not None
                await asyncio.wait([flight.task])
                continue
            else:
                listener(flight.status, flight.current)
            try:
                await self._wait(flight, listener)
                return
            except SampanError:
                # Somebody else's registry failed them; ours may do better.
                if ours:
                    raise

    async def _wait(self, flight: _Flight, listener: Listener) -> None:
        assert flight.task is not None
        flight.listeners.append(listener)
        flight.waiting += 1
        try:
            await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            flight.listeners.remove(listener)
            if not flight.waiting and not flight.task.done():
                flight.given_up = True
                flight.task.cancel()
                await asyncio.wait([flight.task])

    async def _run(self, key: tuple[int, str], flight: _Flight, download: _Download) -> None:
        try:
            async with self._slots:
                await download.run(flight.tell)
        finally:
            self._flights.pop(key, None)


class _Download:
    """One blob from one repository."""

    def __init__(
        self,
        remote: Remote,
        path: str,
        blob: Descriptor,
        scopes: tuple[str, ...],
        content: ContentStore,
    ) -> None:
        self._remote = remote
        self._url = f"v2/{path}/blobs/{blob.digest}"
        self._blob = blob
        self._scopes = scopes
        self._content = content
        self._what = f"download of blob {digests.short(blob.digest)}"

    async def run(self, tell: Listener) -> None:
        failed = 0
        corrupt = 0
        while True:
            ingest = await self._begin()
            start = ingest.offset
            if start and start < self._blob.size:
                tell("Resuming", start)
            try:
                if ingest.offset < self._blob.size:
                    await self._receive(ingest, tell)
                tell("Verifying Checksum", self._blob.size)
                if await self._commit(ingest):
                    tell("Download complete", self._blob.size)
                    return
                corrupt += 1
                if corrupt == 2:
                    raise Unavailable(
                        f"filesystem layer verification failed for digest {self._blob.digest}: "
                        f"registry {self._remote.endpoint.host} sent other bytes"
                    )
            except failures.Transient as exc:
                failed = 1 if ingest.offset - start >= PROGRESS_BYTES else failed + 1
                ingest.suspend()
                if failed >= self._remote.config.attempts:
                    raise exc.cause from exc
                tell("Retrying", start)
                await asyncio.sleep(backoff_seconds(self._remote.config, failed, exc.retry_after))
            except OSError as exc:
                ingest.abort()
                raise failures.out_of_space(exc, self._what) or exc from exc
            except BaseException:
                ingest.suspend()
                raise

    async def _begin(self) -> Ingest:
        begun: list[Ingest] = []

        def begin() -> None:
            blob = self._blob
            begun.append(self._content.ingest(blob.digest, blob.size, ref=f"blob {blob.digest}"))

        try:
            await _to_its_end(asyncio.to_thread(begin))
        except asyncio.CancelledError:
            for ingest in begun:
                ingest.suspend()
            raise
        return begun[0]

    async def _commit(self, ingest: Ingest) -> bool:
        """Whether the blob is right; when it is not, its bytes are thrown away."""
        from sampan.store.content import DigestMismatch

        try:
            await _to_its_end(asyncio.to_thread(ingest.commit))
        except DigestMismatch:
            ingest.abort()
            return False
        return True

    async def _receive(self, ingest: Ingest, tell: Listener) -> None:
        """Receive what is missing.  Raises Transient when the connection breaks."""
        offset = ingest.offset
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._remote.stream(
            "GET", self._url, scopes=self._scopes, headers=headers
        ) as response:
            skip = self._bytes_to_skip(response, offset)
            if skip is None:
                raise await self._refusal(response)
            await self._store(response, ingest, skip, tell)
        if ingest.offset < self._blob.size:
            raise failures.Transient(
                Unavailable(
                    f"connection to registry {self._remote.endpoint.host} broke: unexpected EOF"
                )
            )

    def _bytes_to_skip(self, response: ClientResponse, offset: int) -> int | None:
        """How much of the answer is here already; None when it is not the blob."""
        if response.status == 200:
            return offset
        match = _CONTENT_RANGE_RE.match(response.headers.get("Content-Range", ""))
        if response.status == 206 and match and int(match[1]) <= offset:
            return offset - int(match[1])
        return None

    async def _refusal(self, response: ClientResponse) -> SampanError:
        data = await response.content.read(64 << 10)
        if response.status == 404:
            return NotFound(
                f"{self._what} failed: registry {self._remote.endpoint.host} does not have "
                f"{self._blob.digest}: {failures.explain(404, data)}"
            )
        return failures.of_status(response.status, data, self._what)

    async def _store(
        self, response: ClientResponse, ingest: Ingest, skip: int, tell: Listener
    ) -> None:
        """Hash and write in a thread while the next bytes arrive: at most two batches are held."""
        room = self._blob.size - ingest.offset
        batch: list[bytes] = []
        held = 0
        writing: asyncio.Future[None] | None = None
        told = time.monotonic()
        tell("Downloading", ingest.offset)
        try:
            async for chunk in response.content.iter_any():
                piece = chunk
                if skip:
                    piece, skip = piece[skip:], max(0, skip - len(piece))
                room -= len(piece)
                if room < 0:
                    raise Unavailable(
                        f"{self._what} failed: registry {self._remote.endpoint.host} sent more "
                        f"than the {self._blob.size} bytes that the manifest says"
                    )
                batch.append(piece)
                held += len(piece)
                now = time.monotonic()
                if held < BATCH_BYTES and now - told < PROGRESS_SECONDS:
                    continue
                if writing:
                    await _to_its_end(writing)
                writing = asyncio.ensure_future(asyncio.to_thread(_write, ingest, batch))
                batch, held = [], 0
                if now - told >= PROGRESS_SECONDS:
                    told = now
                    tell("Downloading", self._blob.size - room)
        finally:
            # What arrived before a break is kept too.  The thread cannot be interrupted, so it is
            # waited for even when this task is being cancelled.
            if writing:
                await _to_its_end(writing)
            _write(ingest, batch)


def _write(ingest: Ingest, batch: list[bytes]) -> None:
    for piece in batch:
        ingest.write(piece)


async def _to_its_end(work: Awaitable[object]) -> None:
    """Await work that a cancelled caller must not leave behind, however often it is cancelled.

    A blob published after the failed pull was cleaned up would stay; and a resumable file that is
    given back while a thread still renames it would vanish under the next download.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # the caller, who is leaving, does not want it
        raise cancelled
    await task
