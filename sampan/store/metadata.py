"""The metadata database: one SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import Generic, Protocol, TypeVar


class HasId(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=HasId)


class Collection(Generic[T]):
    """Objects of one type by ID; ``name`` is unique in the collection where T has one."""

    def get(self, id: str) -> T | None:
        raise NotImplementedError

    def by_name(self, name: str) -> T | None:
        raise NotImplementedError

    def put(self, obj: T) -> None:
        """Insert or replace; raises errors.Conflict when another object has the name."""
        raise NotImplementedError

    def delete(self, id: str) -> None:
        raise NotImplementedError

    def all(self) -> list[T]:
        raise NotImplementedError

    def find_prefix(self, prefix: str) -> list[str]:
        """The IDs that begin with ``prefix``."""
        raise NotImplementedError


class Metadata:
    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing; a transaction inside another one joins it.  Do not await inside."""
        raise NotImplementedError

    def collection(self, name: str, type: type[T]) -> Collection[T]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
