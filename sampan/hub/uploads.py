"""Blobs that are arriving: upload sessions, hashed while they are received."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sampan.hub import failures
from sampan.hub.records import Records
from sampan.hub.storage import BlobStorage, Busy, Sink

if TYPE_CHECKING:
    from hashlib import _Hash

HELD_BYTES = 16 << 20
"""Bytes of all uploads of a process that wait to be written, together."""
MIN_BATCH_BYTES, MAX_BATCH_BYTES = 128 << 10, 1 << 20
REMEMBERED_HASHES = 4096
RESERVE_ATTEMPTS = 100
CLAIM_SECONDS = 3600


class Uploads:
    """The upload sessions of all repositories.

    A session's owner is part of it: nobody else may write to it.  The running hash of a session is
    remembered by the process that received its bytes; another process reads them again.
    """

    def __init__(self, records: Records, storage: BlobStorage) -> None:
        self._records = records
        self._database = records.database
        self._storage = storage
        self._running = 0
        self._hashes: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()

    async def begin(self, repository: str, owner: str) -> str:
        """Begin a session; returns its id."""
        upload = secrets.token_hex(16)
        now = int(time.time())
        await self._storage.begin(upload)
        await self._database.write(
            lambda sql: sql.run(
                "INSERT INTO uploads (id, repository, owner, touched) VALUES (?, ?, ?, ?)",
                upload,
                repository,
                owner,
                now,
            )
        )
        self._hashes[upload] = (0, hashlib.sha256())
        return upload

    async def size(self, repository: str, owner: str, upload: str) -> int:
        """Bytes received so far.  Raises RegistryError when there is no such session."""
        row = await self._database.read(
            lambda sql: sql.one("SELECT repository, owner FROM uploads WHERE id = ?", upload)
        )
        size = await self._storage.size(upload) if row == (repository, owner) else None
        if size is None:
            raise failures.upload_unknown(upload)
        return size

    async def append(
        self,
        repository: str,
        owner: str,
        upload: str,
        chunks: AsyncIterator[bytes],
        *,
        start: int | None = None,
        length: int | None = None,
    ) -> int:
        """Append what arrives; returns the new size.

        ``start`` is where the client believes to be, ``length`` how much it announced.  What
        arrived before a connection broke is kept.  Raises RegistryError (416 out of order, 409
        when another request is writing, 507 when the disk is full).
        """
        size = await self.size(repository, owner, upload)
        if start is not None and start != size:
            raise _out_of_order(repository, upload, size)
        hasher = await self._hash(upload, size)
        received = _Counter()
        try:
            async with self._claim(upload), self._storage.append(upload, size, hasher) as sink:
                # The hash runs ahead of what is remembered until all is written.
                self._hashes.pop(upload, None)
                self._running += 1
                try:
                    await self._receive(chunks, sink, received, length)
                finally:
                    self._running -= 1
        except Busy:
            raise failures.upload_invalid("another client is writing to this upload", 409) from None
        except FileNotFoundError:
            raise failures.upload_unknown(upload) from None
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                # Kept, it would keep the disk full for everybody.
                await self._storage.discard(upload)
                raise failures.disk_full() from exc
            raise
        self._remember(upload, size + received.value, hasher)
        return size + received.value

    async def finish(self, repository: str, owner: str, upload: str, digest: str) -> None:
        """Turn the session into a blob of ``repository``.  Raises RegistryError."""
        size = await self.size(repository, owner, upload)
        algorithm = digest.partition(":")[0]
        hasher = await self._hash(upload, size, algorithm)
        if f"{algorithm}:{hasher.hexdigest()}" != digest:
            await self.cancel(repository, owner, upload)
            raise failures.digest_invalid("provided digest did not match uploaded content")
        for _ in range(RESERVE_ATTEMPTS):
            if await self._records.reserve_blob(digest, size):
                break
            await asyncio.sleep(0.1)
        else:
            raise failures.RegistryError(
                503, "UNAVAILABLE", "the blob is being collected: try again"
            )
        try:
            await self._storage.finish(upload, digest)
        except FileNotFoundError:
            raise failures.upload_unknown(upload) from None
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise failures.disk_full() from exc
            raise
        await self._records.link_blob(repository, digest)
        await self._forget(upload)

    async def cancel(self, repository: str, owner: str, upload: str) -> None:
        await self.size(repository, owner, upload)
        await self._storage.discard(upload)
        await self._forget(upload)

    async def collect(self, older_than: float) -> int:
        """Remove sessions that nobody wrote to for ``older_than`` seconds; returns how many."""
        stale = await self._storage.abandoned(older_than)
        for upload in stale:
            await self._storage.discard(upload)
            await self._forget(upload)
        return len(stale)

    @asynccontextmanager
    async def _claim(self, upload: str) -> AsyncIterator[None]:
        """Keep other processes from writing to an upload, where the storage itself does not.

        A claim that was not let go of, for its process died, is void after a while.  Raises Busy.
        """
        if self._storage.exclusive:
            yield
            return
        now = int(time.time())
        claimed = await self._database.write(
            lambda sql: sql.run(
                "UPDATE uploads SET state = ?, touched = ? WHERE id = ? "
                "AND (state = '' OR touched < ?)",
                "claimed",
                now,
                upload,
                now - CLAIM_SECONDS,
            )
        )
        if not claimed:
            raise Busy
        try:
            yield
        finally:
            await asyncio.shield(
                self._database.write(
                    lambda sql: sql.run("UPDATE uploads SET state = '' WHERE id = ?", upload)
                )
            )

    async def _forget(self, upload: str) -> None:
        self._hashes.pop(upload, None)
        await self._database.write(lambda sql: sql.run("DELETE FROM uploads WHERE id = ?", upload))

    async def _hash(self, upload: str, size: int, algorithm: str = "sha256") -> _Hash:
        known = self._hashes.get(upload)
        if known and known[0] == size and known[1].name == algorithm:
            return known[1].copy()
        hasher = hashlib.new(algorithm)
        async for data in self._storage.read_upload(upload):
            await asyncio.to_thread(hasher.update, data)
        return hasher

    async def _receive(
        self, chunks: AsyncIterator[bytes], sink: Sink, received: _Counter, length: int | None
    ) -> None:
        """Write batches while the next ones arrive: at most two are held."""
        batch: list[bytes] = []
        held = 0
        writing: asyncio.Task[None] | None = None
        try:
            async for chunk in chunks:
                if length is not None and received.value + held + len(chunk) > length:
                    raise failures.RegistryError(
                        400, "SIZE_INVALID", "more bytes than Content-Range says"
                    )
                batch.append(chunk)
                held += len(chunk)
                if held >= self._batch_bytes():
                    if writing:
                        await asyncio.shield(writing)
                    writing = asyncio.create_task(sink.write(batch))
                    received.value += held
                    batch, held = [], 0
        finally:
            # Also when the client went away: what arrived is kept, and no thread writes on after the
            # file is closed.
            if writing:
                await asyncio.wait([writing])
            if batch:
                await asyncio.shield(sink.write(batch))
                received.value += held
        if writing:
            writing.result()
        if length is not None and received.value != length:
            raise failures.RegistryError(400, "SIZE_INVALID", "fewer bytes than Content-Range says")

    def _batch_bytes(self) -> int:
        """How much to gather for one write: less the more uploads are running."""
        share = HELD_BYTES // (2 * max(self._running, 1))
        return max(MIN_BATCH_BYTES, min(share, MAX_BATCH_BYTES))

    def _remember(self, upload: str, size: int, hasher: _Hash) -> None:
        self._hashes[upload] = (size, hasher)
        while len(self._hashes) > REMEMBERED_HASHES:
            self._hashes.popitem(last=False)


class _Counter:
    value = 0


def _out_of_order(repository: str, upload: str, size: int) -> failures.RegistryError:
    return failures.RegistryError(
        416,
        "BLOB_UPLOAD_INVALID",
        "the chunk does not begin where the upload ends",
        headers=upload_headers(repository, upload, size),
    )


def upload_headers(repository: str, upload: str, size: int) -> dict[str, str]:
    """The headers that tell a client where its session stands."""
    return {
        "Location": f"/v2/{repository}/blobs/uploads/{upload}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": upload,
    }
