"""Images of a daemon, as objects."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from sampan import wirejson
from sampan.client import contextfolder
from sampan.client.api import Api, check
from sampan.client.containers import conditions
from sampan.client.failures import OperationFailed
from sampan.client.http import FileBody, quote
from sampan.client.models import ImageInfo, ProgressMessage

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


def _follow(messages: Iterator[dict[str, Any]], report: Report) -> str:
    """Report all messages; the identifier of the image that was made, if one says so."""
    following = Following(report)
    for message in messages:
        following.take(message)
    return following.identifier


class Image:
    """One image, by the name or identifier it was asked for."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self.name = name

    def __repr__(self) -> str:
        return f"<Image {self.name}>"

    def inspect(self) -> ImageInfo:
        """What there is to say of it."""
        return ImageInfo.parse(self._api.get(f"/images/{quote(self.name)}/json"))

    @property
    def id(self) -> str:
        """Its identifier: the digest of its configuration."""
        return self.inspect().id

    def tag(self, name: str) -> None:
        """Give it another name."""
        repository, tag = split_name(name)
        self._api.post(f"/images/{quote(self.name)}/tag", {"repo": repository, "tag": tag})

    def history(self) -> list[dict[str, Any]]:
        """The steps it was made of, newest first, as the API gives them."""
        found: list[dict[str, Any]] = self._api.get(f"/images/{quote(self.name)}/history")
        return found

    def remove(self, *, force: bool = False) -> None:
        """Take its name away, and delete it when it has no other."""
        self._api.delete(f"/images/{quote(self.name)}", {"force": force})

    def push(self, *, auth: Mapping[str, str] | None = None, report: Report = ignore) -> str:
        """Upload it to the registry in its name; the manifest's digest.

        ``auth`` has ``username`` and ``password``.
        """
        repository, tag = split_name(self.name)
        messages = Api(self._api.host).messages(
            "POST",
            f"/images/{quote(repository)}/push",
            {"tag": tag},
            headers=auth_header(auth),
        )
        return _follow(messages, report)

    def save(self) -> Iterator[bytes]:
        """It as an archive that :meth:`Images.load` reads."""
        return Api(self._api.host).open("GET", "/images/get", {"names": [self.name]}).chunks()


def auth_header(auth: Mapping[str, str] | None) -> dict[str, str]:
    """The header that carries credentials."""
    from base64 import urlsafe_b64encode

    return {
        "X-Registry-Auth": urlsafe_b64encode(wirejson.dumps(dict(auth or {})).encode()).decode()
    }


class Images:
    """``client.images``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def search(self, term: str, *, limit: int = 25) -> list[dict[str, Any]]:
        """What the default registry has, as the API gives it."""
        found: list[dict[str, Any]] = self._api.get(
            "/images/search", {"term": term, "limit": limit}
        )
        return found

    def list(self, *, all: bool = False, **filters: str) -> list[ImageInfo]:
        """The images there are; ``filters`` are the API's (``reference="debian"``)."""
        query: dict[str, object] = {"all": all, "filters": conditions(filters)}
        return [ImageInfo.parse(raw) for raw in self._api.get("/images/json", query)]

    def get(self, name: str) -> Image:
        """By name or identifier; NotFound if there is none."""
        self._api.get(f"/images/{quote(name)}/json")
        return Image(self._api, name)

    def pull(
        self,
        name: str,
        *,
        platform: str = "",
        auth: Mapping[str, str] | None = None,
        report: Report = ignore,
    ) -> Image:
        """Download an image."""
        repository, tag = split_name(name)
        messages = Api(self._api.host).messages(
            "POST",
            "/images/create",
            {"fromImage": repository, "tag": tag, "platform": platform or None},
            headers=auth_header(auth),
        )
        _follow(messages, report)
        return Image(self._api, name)

    def build(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        context: bytes | Iterator[bytes] | None = None,
        dockerfile: str = "Dockerfile",
        tag: str = "",
        arguments: Mapping[str, str] | None = None,
        target: str = "",
        no_cache: bool = False,
        pull: bool = False,
        report: Report = ignore,
    ) -> Image:
        """Build from the folder ``path``, or from ``context``, a tar stream.

        ``dockerfile`` is a path in the context.

        :raises OperationFailed: the Dockerfile is wrong or a step of it failed.
        """
        if (path is None) == (context is None):
            raise ValueError("give either a path or a context")
        body = context
        if body is None:
            folder = os.fspath(path or "")
            packed = contextfolder.packed(folder, os.path.join(folder, dockerfile))
            body, dockerfile = packed.chunks, packed.dockerfile
        query = build_query(dockerfile, tag, arguments, target, no_cache, pull)
        messages = Api(self._api.host).messages(
            "POST", "/build", query, body=body, headers={"Content-Type": "application/x-tar"}
        )
        identifier = _follow(messages, report)
        if not identifier and not tag:
            raise OperationFailed("the build ended without an image")
        return Image(self._api, tag or identifier)

    def load(self, archive: bytes | Iterator[bytes] | BinaryIO, *, report: Report = ignore) -> None:
        """Read images from an archive that was saved."""
        body = archive if isinstance(archive, bytes) else _body(archive)
        messages = Api(self._api.host).messages(
            "POST", "/images/load", body=body, headers={"Content-Type": "application/x-tar"}
        )
        _follow(messages, report)

    def import_archive(
        self, archive: bytes | Iterator[bytes] | BinaryIO, name: str, *, changes: Sequence[str] = ()
    ) -> Image:
        """Make an image of one layer from the tar of a file system."""
        repository, tag = split_name(name)
        body = archive if isinstance(archive, bytes) else _body(archive)
        messages = Api(self._api.host).messages(
            "POST",
            "/images/create",
            {"fromSrc": "-", "repo": repository, "tag": tag, "changes": list(changes) or None},
            body=body,
            headers={"Content-Type": "application/x-tar"},
        )
        _follow(messages, ignore)
        return Image(self._api, name)

    def prune(self, *, all: bool = False) -> int:
        """Remove images without a name (or ``all`` without a container); the bytes freed."""
        query = {"filters": {"dangling": {"false" if all else "true": True}}}
        return int(self._api.post("/images/prune", query).get("SpaceReclaimed") or 0)


def build_query(
    dockerfile: str,
    tag: str,
    arguments: Mapping[str, str] | None,
    target: str,
    no_cache: bool,
    pull: bool,
) -> dict[str, object]:
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


def _body(source: Iterator[bytes] | BinaryIO) -> Iterable[bytes]:
    if isinstance(source, io.IOBase) and FileBody.fits(cast(BinaryIO, source)):
        return FileBody(cast(BinaryIO, source))
    return _chunks(source)


def _chunks(source: Iterator[bytes] | BinaryIO) -> Iterator[bytes]:
    read = getattr(source, "read", None)
    if read is None:
        yield from source
        return
    while chunk := read(256 << 10):
        yield chunk
