"""What is in a layer: its files and packages, read once and kept beside the blobs.

The index of a layer never changes, for the layer does not.  It is made when somebody first looks,
in a thread, in one pass over the tar, and bounded in entries and bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec
import zstandard
from isal import igzip

from sampan.errors import InvalidParameter
from sampan.hub.storage import BlobStorage

MAX_ENTRIES = 500_000
MAX_BYTES = 16 << 30
MAX_DATABASE_BYTES = 64 << 20
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_DPKG = "var/lib/dpkg/status"
_DPKG_FOLDER = "var/lib/dpkg/status.d/"
_APK = "lib/apk/db/installed"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A file of a layer.  ``kind`` is one of ``- d l h c b p`` as ``ls`` has them (``h``: hard
    link); ``content`` a digest of a regular file's bytes."""

    path: str
    kind: str
    size: int
    mode: int
    owner: str
    modified: int
    target: str
    content: bytes


class LayerIndex(msgspec.Struct, frozen=True, array_like=True):
    """All files of a layer, and the packages that its package database lists, if it has one."""

    entries: list[Entry]
    packages: dict[str, str] | None = None
    truncated: bool = False


class LayerIndexes:
    """Makes and keeps indexes of layers under ``folder``."""

    def __init__(self, storage: BlobStorage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._running: dict[str, asyncio.Task[LayerIndex]] = {}
        self._slots = asyncio.Semaphore(2)

    async def get(self, digest: str, size: int) -> LayerIndex:
        """The index of a layer.  Raises InvalidParameter when it is not a tar that we can read,
        FileNotFoundError when the blob is not there."""
        path = self._folder / digest.replace(":", "-")
        try:
            return await asyncio.to_thread(_load, path)
        except (FileNotFoundError, msgspec.MsgspecError, zstandard.ZstdError):
            pass
        task = self._running.get(digest)
        if task is None:
            task = self._running[digest] = asyncio.create_task(self._make(digest, size, path))
            task.add_done_callback(lambda _: self._running.pop(digest, None))
        return await asyncio.shield(task)

    async def _make(self, digest: str, size: int, path: Path) -> LayerIndex:
        async with self._slots:
            if local := self._storage.local_path(digest):
                return await asyncio.to_thread(_index_file, local, path)
            with tempfile.NamedTemporaryFile() as copy:
                async for data in self._storage.read(digest, 0, size):
                    copy.write(data)
                copy.flush()
                return await asyncio.to_thread(_index_file, Path(copy.name), path)


def _load(path: Path) -> LayerIndex:
    raw = zstandard.decompress(path.read_bytes())
    return msgspec.msgpack.decode(raw, type=LayerIndex)


def _index_file(source: Path, target: Path) -> LayerIndex:
    with source.open("rb") as file:
        try:
            index = read_layer(_plain(file))
        except (tarfile.TarError, OSError, EOFError, zlib.error, zstandard.ZstdError) as exc:
            if isinstance(exc, FileNotFoundError):
                raise
            raise InvalidParameter(f"the layer cannot be read: {exc}") from exc
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    temporary.write_bytes(zstandard.compress(msgspec.msgpack.encode(index), 3))
    temporary.replace(target)
    return index


def _plain(file: BinaryIO) -> BinaryIO:
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, igzip.GzipFile(fileobj=file, mode="rb"))  # type: ignore[no-untyped-call]
    if magic == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return file


def read_layer(plain: BinaryIO) -> LayerIndex:
    """Index an uncompressed tar in one pass."""
    entries: list[Entry] = []
    packages: dict[str, str] | None = None
    seen = 0
    truncated = False
    with tarfile.open(fileobj=plain, mode="r|", errorlevel=0) as tar:
        for member in tar:
            seen += member.size
            if len(entries) >= MAX_ENTRIES or seen > MAX_BYTES:
                truncated = True
                break
            path = _clean(member.name)
            content = b""
            if member.isreg() and (file := tar.extractfile(member)):
                database = _is_database(path) and member.size <= MAX_DATABASE_BYTES
                content, kept = _digest(file, database)
                if database:
                    packages = {**(packages or {}), **_packages(path, kept)}
            entries.append(_entry(member, path, content))
    return LayerIndex(entries, packages, truncated)


def merge(layers: Iterable[LayerIndex]) -> dict[str, Entry]:
    """The files of an image: its layers from the lowest up, whiteouts applied."""
    files: dict[str, Entry] = {}
    for layer in layers:
        for entry in layer.entries:
            folder, _, name = entry.path.rpartition("/")
            prefix = f"{folder}/" if folder else ""
            if name == OPAQUE:
                _remove_under(files, prefix)
            elif name.startswith(WHITEOUT):
                gone = prefix + name[len(WHITEOUT) :]
                files.pop(gone, None)
                _remove_under(files, gone + "/")
        for entry in layer.entries:
            if not entry.path.rpartition("/")[2].startswith(WHITEOUT):
                files[entry.path] = entry
    return files


def _remove_under(files: dict[str, Entry], prefix: str) -> None:
    for path in [path for path in files if path.startswith(prefix)]:
        del files[path]


def _entry(member: tarfile.TarInfo, path: str, content: bytes) -> Entry:
    kinds = {
        tarfile.DIRTYPE: "d",
        tarfile.SYMTYPE: "l",
        tarfile.LNKTYPE: "h",
        tarfile.CHRTYPE: "c",
        tarfile.BLKTYPE: "b",
        tarfile.FIFOTYPE: "p",
    }
    return Entry(
        path=path,
        kind=kinds.get(member.type, "-"),
        size=member.size if member.isreg() else 0,
        mode=member.mode & 0o7777,
        owner=f"{member.uid}:{member.gid}",
        modified=int(member.mtime),
        target=_text(member.linkname),
        content=content,
    )


def _clean(name: str) -> str:
    return "/".join(part for part in _text(name).split("/") if part not in ("", ".", ".."))


def _text(name: str) -> str:
    """Names that are not UTF-8 are shown with replacement characters."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _digest(file: IO[bytes], keep: bool) -> tuple[bytes, bytes]:
    hasher = hashlib.blake2b(digest_size=16)
    kept = bytearray()
    while data := file.read(1 << 20):
        hasher.update(data)
        if keep:
            kept += data
    return hasher.digest(), bytes(kept)


def _is_database(path: str) -> bool:
    return path in (_DPKG, _APK) or path.startswith(_DPKG_FOLDER)


def _packages(path: str, data: bytes) -> dict[str, str]:
    """Name to version, from a dpkg status file or an apk database."""
    name_key, version_key = ("P:", "V:") if path == _APK else ("Package: ", "Version: ")
    found: dict[str, str] = {}
    name = ""
    for line in data.decode("utf-8", "replace").splitlines():
        if line.startswith(name_key):
            name = line[len(name_key) :].strip()
        elif line.startswith(version_key) and name:
            found[name] = line[len(version_key) :].strip()
        elif not line:
            name = ""
    return found
