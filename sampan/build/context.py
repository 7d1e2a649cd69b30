"""Build contexts: tar streams spooled and indexed, or folders; and what ``.dockerignore`` hides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sampan.build.ops.archive import ArchiveTree
from sampan.build.ops.copy import explained
from sampan.build.ops.tree import NOTHING, Tree, folder
from sampan.build.ops.unpack import MALFORMED, compression, decompressed
from sampan.errors import InvalidParameter
from sampan.image.ignore import IgnoreMatcher, PatternError, read_ignore_file

SPOOL = ".sampan-context.tar"
_CHUNK = 1 << 20


def extract(stream: BinaryIO, dest: Path) -> int:
    """Make the directory ``dest`` a context of the (possibly compressed) tar ``stream``.

    The archive is kept as one file, uncompressed, and read in place: none of its members gets a
    path of the host.  Returns the archive's size in bytes.  Raises InvalidParameter for something
    that is not a tar, is cut short, or has a member that would lie outside the context; DiskFull.
    Blocking: call it in a thread.
    """
    spool = dest / SPOOL
    total = 0
    try:
        with spool.open("wb", buffering=0) as out:
            plain = decompressed(stream, stream.read(512))
            while data := plain.read(_CHUNK):
                total += len(data)
                _write(out, [data])
    except MALFORMED as error:
        raise InvalidParameter(f"malformed build context: {error}") from None
    ArchiveTree(spool)
    return total


async def receive(stream: AsyncIterable[bytes], dest: Path) -> int:
    """:func:`extract` for what arrives on the event loop; raises the same."""
    raw = dest / f"{SPOOL}.part"
    pending: list[bytes] = []
    size = 0
    with raw.open("wb", buffering=0) as out:
        async for chunk in stream:
            pending.append(chunk)
            size += len(chunk)
            if size >= _CHUNK:
                await asyncio.to_thread(_write, out, pending)
                pending, size = [], 0
        await asyncio.to_thread(_write, out, pending)
    return await asyncio.to_thread(_finish, raw, dest)


def _write(out: BinaryIO, chunks: Sequence[bytes]) -> None:
    try:
        view = memoryview(b"".join(chunks))
        while view:
            view = view[out.write(view) :]
    except OSError as error:
        raise explained(error, "the build context") from error


def _finish(raw: Path, dest: Path) -> int:
    with raw.open("rb") as stream:
        if compression(stream.read(512)):
            stream.seek(0)
            size = extract(stream, dest)
            raw.unlink()
            return size
    spool = dest / SPOOL
    raw.rename(spool)
    ArchiveTree(spool)
    return spool.stat().st_size


class Context:
    """A context on disk: a folder, or what :func:`extract` made; or an archive that is open."""

    def __init__(self, source: Path | ArchiveTree, dockerfile: str = "Dockerfile") -> None:
        """Raises InvalidParameter for a malformed archive or ``.dockerignore``."""
        self.path = source if isinstance(source, Path) else Path()
        archive = None
        if isinstance(source, ArchiveTree):
            archive = source
        elif (source / SPOOL).exists():
            archive = ArchiveTree(source / SPOOL)
        self._archive = archive
        self.ignore: IgnoreMatcher = NOTHING
        with self.opened() as tree:
            self.ignore = ignore_patterns(tree, dockerfile)
        if archive is not None:
            self._archive = archive.hiding(self.ignore)

    @property
    def needs_copy(self) -> bool:
        """Whether the directory as it is must not be shown to commands."""
        return self._archive is not None or bool(self.ignore)

    @contextmanager
    def opened(self) -> Iterator[Tree]:
        """The files, without what is ignored."""
        if self._archive is not None:
            yield self._archive
            return
        with folder(self.path, self.ignore) as tree:
            yield tree

    def read(self, path: str, limit: int) -> bytes:
        """A file's content, ignored or not; empty if there is none."""
        with self.opened() as tree:
            return tree.read(path, limit)


def ignore_patterns(tree: Tree, dockerfile: str) -> IgnoreMatcher:
    """The patterns of ``DOCKERFILE.dockerignore`` or else ``.dockerignore``.

    Raises InvalidParameter for a malformed pattern.
    """
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        data = tree.read(name)
        if data:
            break
    else:
        return NOTHING
    try:
        return IgnoreMatcher(read_ignore_file(data.decode(errors="surrogateescape")))
    except PatternError as error:
        raise InvalidParameter(f"{name}: {error}") from None
