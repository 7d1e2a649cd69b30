"""Operations and vertices: frozen values with a digest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Source:
    """``identifier`` is ``docker-image://REF``, ``local://NAME``, ``https://…`` or ``git://…``.

    Attributes: ``platform`` of an image; ``checksum`` and ``filename`` of a URL; ``keep-git-dir``
    and ``checksum`` of a repository.
    """

    identifier: str
    attrs: tuple[tuple[str, str], ...] = ()

    def attr(self, name: str) -> str:
        return dict(self.attrs).get(name, "")

    @property
    def scheme(self) -> str:
        return self.identifier.partition("://")[0]


@dataclass(frozen=True, slots=True)
class ExecMount:
    """A mount of an exec.

    ``input`` is the index of the vertex mounted (``bind``, and the initial content of ``cache``),
    or None.  ``selector`` is the path inside it.  ``id`` names a cache, secret or agent; ``env``
    a variable that holds the secret instead of a file (``dest`` empty).  ``size`` limits a tmpfs.
    """

    type: Literal["bind", "cache", "tmpfs", "secret", "ssh"]
    dest: str
    input: int | None = None
    selector: str = "/"
    readonly: bool = False
    id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    required: bool = False
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    env: str = ""


@dataclass(frozen=True, slots=True)
class Exec:
    """Run ``args``; the root file system is input 0.

    ``files`` are (path, content) of read-only executable files mounted for the command.
    ``surroundings`` say what of the build's settings is not as usual for it: names of hosts, limits.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    mounts: tuple[ExecMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    files: tuple[tuple[str, str], ...] = ()
    surroundings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyAction:
    """Copy what ``source`` (a path or pattern inside input ``input``) matches to ``dest``.

    ``contents`` is the Dockerfile's rule that a directory is copied by its contents.  ``owner`` is
    ``user[:group]``, looked up in the target tree.  ``mode`` is octal or symbolic.  ``unpack``
    extracts a local archive.  ``into`` forces ``dest`` to be a directory.
    """

    input: int
    source: str
    dest: str
    owner: str = ""
    mode: str = ""
    unpack: bool = False
    into: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MkfileAction:
    path: str
    data: str
    owner: str = ""
    mode: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class MkdirAction:
    """Make the directory and its missing parents; nothing when it is there."""

    path: str
    owner: str = ""


FileAction = CopyAction | MkfileAction | MkdirAction


@dataclass(frozen=True, slots=True)
class File:
    """Actions in order on input 0; ``scratch`` when input 0 is None."""

    actions: tuple[FileAction, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """The changes of each later input over the first one."""


Operation = Source | Exec | File | Merge


class Vertex:
    """An operation and its inputs; compared by identity, equal work has equal ``digest``.

    ``ignore_cache`` and ``hidden_env`` (proxies for the command) are not part of the digest.
    """

    __slots__ = ("definition", "digest", "hidden_env", "ignore_cache", "inputs", "op")

    digest: str

    def __init__(
        self,
        op: Operation,
        inputs: tuple[Vertex | None, ...] = (),
        ignore_cache: bool = False,
        hidden_env: tuple[str, ...] = (),
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.ignore_cache = ignore_cache
        self.hidden_env = hidden_env
        self.definition: bytes = msgspec.json.encode([type(op).__name__, op])
        state = hashlib.sha256(self.definition)
        for vertex in inputs:
            state.update(b"\n" + (b"scratch" if vertex is None else vertex.digest.encode()))
        self.digest = "sha256:" + state.hexdigest()

    def __repr__(self) -> str:
        return f"<Vertex {type(self.op).__name__} {self.digest[7:19]}>"
