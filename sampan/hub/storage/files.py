"""Blobs as files: ``blobs/sha256/ab/<hex>``, uploads as ``uploads/<id>``."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from sampan.hub.storage import Busy, Hasher

READ_BYTES = 1 << 20
FLUSH_BYTES = 32 << 20
ALGORITHMS = ("sha256", "sha512")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_UPLOAD_RE = re.compile(r"[0-9a-f]{32}")


class FileStorage:
    """A folder on a local file system.  Several processes may share it."""

    exclusive = True

    def __init__(self, root: Path, threads: int = 16) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)
        for algorithm in ALGORITHMS:
            # Made durable once, so that finishing a blob has two folders to sync and no more.
            (self._blobs / algorithm).mkdir(parents=True, exist_ok=True)
        for folder in (self._blobs, root):
            _sync(folder)
        self._threads = ThreadPoolExecutor(threads, "hub-files")

    async def begin(self, upload: str) -> None:
        os.close(os.open(self._upload(upload), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    async def size(self, upload: str) -> int | None:
        try:
            return self._upload(upload).stat().st_size
        except FileNotFoundError:
            return None

    @asynccontextmanager
    async def append(self, upload: str, offset: int, hasher: Hasher) -> AsyncIterator[_FileSink]:
        fd = os.open(self._upload(upload), os.O_WRONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy from None
            if os.fstat(fd).st_size != offset:
                raise Busy
            os.lseek(fd, offset, os.SEEK_SET)
            sink = _FileSink(fd, hasher, self._threads)
            try:
                yield sink
            finally:
                await sink.settle()
        finally:
            os.close(fd)

    async def read_upload(self, upload: str) -> AsyncIterator[bytes]:
        async for data in self._read(self._upload(upload), 0, None):
            yield data

    async def finish(self, upload: str, digest: str) -> None:
        await self._run(self._finish, self._upload(upload), self._path(digest))

    @staticmethod
    def _finish(source: Path, target: Path) -> None:
        fd = os.open(source, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        for folder in (target.parent, target.parent.parent):
            _sync(folder)

    async def discard(self, upload: str) -> None:
        self._upload(upload).unlink(missing_ok=True)

    async def abandoned(self, older_than: float) -> list[str]:
        limit = time.time() - older_than
        found = []
        for entry in os.scandir(self._uploads):
            with suppress(FileNotFoundError):
                if _UPLOAD_RE.fullmatch(entry.name) and entry.stat().st_mtime < limit:
                    found.append(entry.name)
        return found

    def local_path(self, digest: str) -> Path | None:
        return self._path(digest)

    async def redirect(self, digest: str) -> str | None:
        return None

    async def read(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        async for data in self._read(self._path(digest), start, end):
            yield data

    async def remove(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    async def blobs(self) -> AsyncIterator[tuple[str, int]]:
        for folder in await self._run(lambda: list(self._folders())):
            for digest, size in await self._run(_list, folder):
                yield digest, size

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    def _folders(self) -> Iterator[Path]:
        for algorithm in self._blobs.iterdir():
            yield from algorithm.iterdir()

    def _upload(self, upload: str) -> Path:
        if not _UPLOAD_RE.fullmatch(upload):
            raise FileNotFoundError(upload)
        return self._uploads / upload

    def _path(self, digest: str) -> Path:
        """Callers validate digests; a path out of the folder is refused all the same."""
        algorithm, _, encoded = digest.partition(":")
        if not (algorithm.isalnum() and encoded.isalnum()):
            raise FileNotFoundError(digest)
        return self._blobs / algorithm / encoded[:2] / encoded

    async def _read(self, path: Path, start: int, end: int | None) -> AsyncIterator[bytes]:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            left = -1 if end is None else end - start
            while left:
                want = READ_BYTES if left < 0 else min(READ_BYTES, left)
                data = await self._run(file.read, want)
                if not data:
                    return
                yield data
                left -= len(data) if left > 0 else 0

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


class _FileSink:
    def __init__(self, fd: int, hasher: Hasher, threads: ThreadPoolExecutor) -> None:
        self._fd = fd
        self._hasher = hasher
        self._threads = threads
        self._unflushed = 0
        self._flushing: asyncio.Future[None] | None = None

    async def write(self, batch: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._write, batch)
        self._unflushed += sum(map(len, batch))
        if self._unflushed >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            # The disk works while the rest arrives, so that the sync at the end has little to do.
            self._unflushed = 0
            self._flushing = loop.run_in_executor(self._threads, os.fdatasync, self._fd)

    async def settle(self) -> None:
        """Wait until no thread uses the file.  Raises OSError when the disk failed: the kernel
        says so only once, and not to the sync at the end."""
        if self._flushing:
            await asyncio.wait([self._flushing])
            self._flushing.result()

    def _write(self, batch: list[bytes]) -> None:
        for data in batch:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            self._hasher.update(data)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _list(folder: Path) -> list[tuple[str, int]]:
    algorithm = folder.parent.name
    return [(f"{algorithm}:{entry.name}", entry.stat().st_size) for entry in os.scandir(folder)]
