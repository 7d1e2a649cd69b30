"""Blobs in an object store (S3 and what else obstore speaks): ``blobs/sha256/ab/<hex>``.

An object cannot be appended to, so an upload is a folder of parts, ``uploads/<id>/<offset>``, one
for each request; the upload's size is the sum of those that follow one another.  A part is written
by the store's multipart upload while it arrives.  Finishing copies a single part inside the store,
and joins several by streaming them.
"""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from sampan.errors import InvalidParameter
from sampan.hub.storage import Busy, Hasher

if TYPE_CHECKING:
    from obstore import AsyncWritableFile
    from obstore.store import ObjectStore

PART_BYTES = 8 << 20
READ_BYTES = 1 << 20
MAX_COPY_BYTES = 5_000_000_000
SIGNED_FOR = timedelta(minutes=10)
_BEGUN = "begun"
_UPLOAD_RE = re.compile(r"[0-9a-f]{32}")


def open_store(url: str, options: dict[str, str]) -> ObjectStore:
    """The store at ``url`` with ``options`` of obstore's names.  Raises InvalidParameter."""
    plain = options.get("endpoint", "").startswith("http://")
    config: Any = dict(options)
    try:
        return from_url(url, config=config, client_options={"allow_http": plain})
    except (BaseError, ValueError, TypeError) as exc:
        raise InvalidParameter(f"cannot use the object store {url}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class _Part:
    path: str
    offset: int
    size: int


class ObjectStorage:
    """Blobs in an object store; many processes may share it.

    ``exclusive`` is False: the caller must see to it that only one request appends to an upload.
    """

    exclusive = False

    def __init__(self, store: ObjectStore, *, signed: bool = False) -> None:
        self._store = store
        self._signed = signed

    async def begin(self, upload: str) -> None:
        await self._guard(obstore.put_async(self._store, f"{_folder(upload)}/{_BEGUN}", b""))

    async def size(self, upload: str) -> int | None:
        parts = await self._parts(upload)
        return None if parts is None else sum(part.size for part in parts)

    @asynccontextmanager
    async def append(self, upload: str, offset: int, hasher: Hasher) -> AsyncIterator[_ObjectSink]:
        if await self.size(upload) != offset:
            raise Busy
        path = f"{_folder(upload)}/{offset:016d}"
        writer = obstore.open_writer_async(self._store, path, buffer_size=PART_BYTES)
        sink = _ObjectSink(writer, hasher)
        try:
            yield sink
        finally:
            # What arrived is kept also when the client went away.
            if sink.written:
                await asyncio.shield(self._guard(writer.close()))

    async def read_upload(self, upload: str) -> AsyncIterator[bytes]:
        for part in await self._parts(upload) or []:
            async for data in self._read(part.path, 0, part.size):
                yield data

    async def finish(self, upload: str, digest: str) -> None:
        parts = await self._parts(upload)
        if parts is None:
            raise FileNotFoundError(upload)
        target = _path(digest)
        if len(parts) == 1 and parts[0].size <= MAX_COPY_BYTES:
            await self._guard(obstore.copy_async(self._store, parts[0].path, target))
        elif not parts:
            await self._guard(obstore.put_async(self._store, target, b""))
        else:
            await self._join(parts, target)
        await self.discard(upload)

    async def _join(self, parts: list[_Part], target: str) -> None:
        writer = obstore.open_writer_async(self._store, target, buffer_size=PART_BYTES)
        # A writer that is not closed makes no object: a failure here leaves nothing visible.
        for part in parts:
            async for data in self._read(part.path, 0, part.size):
                await self._guard(writer.write(data))
        await self._guard(writer.close())

    async def discard(self, upload: str) -> None:
        paths = [meta["path"] for meta in await self._list(_folder(upload))]
        if paths:
            await self._guard(obstore.delete_async(self._store, paths))

    async def abandoned(self, older_than: float) -> list[str]:
        limit = time.time() - older_than
        newest: dict[str, float] = {}
        for meta in await self._list("uploads"):
            upload = meta["path"].split("/")[1]
            if not _UPLOAD_RE.fullmatch(upload):
                continue
            at = meta["last_modified"].timestamp()
            newest[upload] = max(at, newest.get(upload, 0.0))
        return [upload for upload, at in newest.items() if at < limit]

    def local_path(self, digest: str) -> Path | None:
        return None

    async def redirect(self, digest: str) -> str | None:
        if not self._signed:
            return None
        store: Any = self._store
        url = await obstore.sign_async(store, "GET", _path(digest), SIGNED_FOR)
        return url if urlsplit(url).scheme in ("http", "https") else None

    async def read(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        async for data in self._read(_path(digest), start, end):
            yield data

    async def remove(self, digest: str) -> None:
        try:
            await self._guard(obstore.delete_async(self._store, _path(digest)))
        except FileNotFoundError:
            pass

    async def blobs(self) -> AsyncIterator[tuple[str, int]]:
        async for batch in obstore.list(self._store, "blobs", chunk_size=1000):
            for meta in batch:
                parts = meta["path"].split("/")
                name = f"{parts[1]}:{parts[3]}" if len(parts) == 4 else meta["path"]
                yield name, meta["size"]

    async def close(self) -> None:
        """The store holds nothing that must be let go of."""

    async def _parts(self, upload: str) -> list[_Part] | None:
        """The parts that follow one another from the start; None when there is no upload."""
        try:
            found = await self._list(_folder(upload))
        except FileNotFoundError:
            return None
        if not found:
            return None
        named = [
            _Part(meta["path"], int(meta["path"].rpartition("/")[2]), meta["size"])
            for meta in found
            if not meta["path"].endswith(_BEGUN)
        ]
        named.sort(key=lambda part: part.offset)
        parts: list[_Part] = []
        end = 0
        for part in named:
            if part.offset == end and part.size:
                parts.append(part)
                end += part.size
        return parts

    async def _list(self, prefix: str) -> list[Any]:
        found: list[Any] = []
        async for batch in obstore.list(self._store, prefix, chunk_size=1000):
            found += batch
        return found

    async def _read(self, path: str, start: int, end: int) -> AsyncIterator[bytes]:
        if start == end:
            return
        result = await self._guard(
            obstore.get_async(self._store, path, options={"range": (start, end)})
        )
        async for data in result.stream(min_chunk_size=READ_BYTES):
            yield bytes(data)

    async def _guard(self, operation: Any) -> Any:
        """The store's failures as OSError, which is what callers of a storage know."""
        try:
            return await operation
        except FileNotFoundError:
            raise
        except BaseError as exc:
            raise OSError(errno.EIO, f"the object store failed: {exc}") from exc


class _ObjectSink:
    def __init__(self, writer: AsyncWritableFile, hasher: Hasher) -> None:
        self._writer = writer
        self._hasher = hasher
        self.written = 0

    async def write(self, batch: list[bytes]) -> None:
        await asyncio.to_thread(self._hash, batch)
        for data in batch:
            try:
                await self._writer.write(data)
            except BaseError as exc:
                raise OSError(errno.EIO, f"the object store failed: {exc}") from exc
            self.written += len(data)

    def _hash(self, batch: list[bytes]) -> None:
        for data in batch:
            self._hasher.update(data)


def _folder(upload: str) -> str:
    if not _UPLOAD_RE.fullmatch(upload):
        raise FileNotFoundError(upload)
    return f"uploads/{upload}"


def _path(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    if not (algorithm.isalnum() and encoded.isalnum()):
        raise FileNotFoundError(digest)
    return f"blobs/{algorithm}/{encoded[:2]}/{encoded}"
