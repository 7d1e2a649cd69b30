"""What requests about images are made of, for the client and for that of event loops."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sampan import wirejson
from sampan.client import contextfolder
from sampan.client.api import check
from sampan.client.failures import OperationFailed
from sampan.client.http import quote
from sampan.client.models import ProgressMessage

Query = dict[str, object]
Headers = dict[str, str]

TAR = {"Content-Type": "application/x-tar"}
Report = Callable[[ProgressMessage], None]


def split_name(name: str) -> tuple[str, str]:
    """``host:5000/name:tag`` as repository and tag (``latest`` if it has none) or digest."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def ignore(_: ProgressMessage) -> None:
    pass


class Following:
    """Reports the messages of a long operation, and remembers what was made."""

    __slots__ = ("_report", "identifier")

    def __init__(self, report: Report) -> None:
        self._report = report
        self.identifier = ""

    def take(self, message: dict[str, Any]) -> None:
        """One message; OperationFailed if it reports an error."""
        check(message)
        if "aux" in message:
            aux = message["aux"] or {}
            self.identifier = str(aux.get("ID") or aux.get("Digest") or self.identifier)
            return
        detail = message.get("progressDetail") or {}
        text = str(message.get("stream") or message.get("status") or "")
        if text.strip().startswith("sha256:"):
            self.identifier = text.strip()
        self._report(
            ProgressMessage(
                text,
                str(message.get("id") or ""),
                int(detail.get("current") or 0),
                int(detail.get("total") or 0),
            )
        )


def push(name: str, auth: Mapping[str, str] | None) -> tuple[str, Query, Headers]:
    """Path, query and headers of an upload."""
    repository, tag = split_name(name)
    return f"/images/{quote(repository)}/push", {"tag": tag}, _auth_header(auth)


def pull(name: str, platform: str, auth: Mapping[str, str] | None) -> tuple[Query, Headers]:
    """Query and headers of ``POST /images/create`` for a download."""
    repository, tag = split_name(name)
    query: Query = {"fromImage": repository, "tag": tag, "platform": platform or None}
    return query, _auth_header(auth)


def tag(name: str) -> Query:
    """The query that names an image ``name``."""
    repository, tag = split_name(name)
    return {"repo": repository, "tag": tag}


def imported(name: str, changes: Sequence[str]) -> Query:
    """The query of ``POST /images/create`` for the tar of a file system."""
    return {"fromSrc": "-", **tag(name), "changes": list(changes) or None}


def pruned(all: bool) -> Query:
    """The query of ``POST /images/prune``."""
    return {"filters": {"dangling": {"false" if all else "true": True}}}


def made(identifier: str, tag: str) -> str:
    """The name of what a build made.  Raises OperationFailed if it made nothing."""
    if not identifier and not tag:
        raise OperationFailed("the build ended without an image")
    return tag or identifier


def packed(
    path: str | os.PathLike[str] | None, dockerfile: str
) -> tuple[Iterable[bytes], str]:  # fmt: skip
    """A folder as a context's tar stream, and the Dockerfile's path in it."""
    folder = os.fspath(path or "")
    found = contextfolder.packed(folder, os.path.join(folder, dockerfile))
    return found.chunks, found.dockerfile


def build(
    dockerfile: str,
    tag: str,
    arguments: Mapping[str, str] | None,
    target: str,
    no_cache: bool,
    pull: bool,
) -> Query:
    """The query of ``POST /build``."""
    return {
        "dockerfile": dockerfile,
        "t": [tag] if tag else None,
        "buildargs": wirejson.dumps(dict(arguments)) if arguments else None,
        "target": target or None,
        "nocache": no_cache,
        "pull": pull,
        "rm": True,
    }


def _auth_header(auth: Mapping[str, str] | None) -> Headers:
    """The header that carries credentials."""
    from base64 import urlsafe_b64encode

    return {
        "X-Registry-Auth": urlsafe_b64encode(wirejson.dumps(dict(auth or {})).encode()).decode()
    }
