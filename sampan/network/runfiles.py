"""A collection of records in the run directory: what is true only until the machine stops.

Endpoints are such records.  They must survive every death of the daemon, but not of the machine,
so that a file in the run directory keeps them and no disk has to be waited for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec


class HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


class RunCollection(Generic[T]):
    """Objects of one msgspec Struct, one file each, replaced atomically.

    Implements :class:`~sampan.network.types.Collection`.  Raises :class:`OSError`.
    """

    def __init__(self, directory: Path, type: type[T]) -> None:
        self._directory = directory
        self._decoder = msgspec.json.Decoder(type)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(self, id: str) -> T | None:
        try:
            return self._decoder.decode(self._path(id).read_bytes())
        except FileNotFoundError:
            return None

    def put(self, obj: T) -> None:
        replace(self._path(obj.id), msgspec.json.encode(obj), mode=0o600)

    def delete(self, id: str) -> None:
        self._path(id).unlink(missing_ok=True)

    def all(self) -> list[T]:
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(self._decoder.decode(path.read_bytes()))
            except msgspec.DecodeError:
                # Of another version of this program: what it described is made anew.
                path.unlink(missing_ok=True)
        return found

    def _path(self, id: str) -> Path:
        return self._directory / f"{id}.json"


def replace(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new one, whole."""
    aside = f"{path}.new"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    os.rename(aside, path)
