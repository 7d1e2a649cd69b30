"""Images of a daemon, as objects."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

from sampan.client import imagecalls
from sampan.client.api import Api
from sampan.client.containers import conditions
from sampan.client.http import FileBody, quote
from sampan.client.imagecalls import Following, Report, ignore
from sampan.client.models import ImageInfo


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
        self._api.post(f"/images/{quote(self.name)}/tag", imagecalls.tag(name))

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
        path, query, headers = imagecalls.push(self.name, auth)
        messages = Api(self._api.host).messages("POST", path, query, headers=headers)
        return _follow(messages, report)

    def save(self) -> Iterator[bytes]:
        """It as an archive that :meth:`Images.load` reads."""
        return Api(self._api.host).open("GET", "/images/get", {"names": [self.name]}).chunks()


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
        query, headers = imagecalls.pull(name, platform, auth)
        messages = Api(self._api.host).messages("POST", "/images/create", query, headers=headers)
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
        body: bytes | Iterable[bytes] | None = context
        if body is None:
            body, dockerfile = imagecalls.packed(path, dockerfile)
        query = imagecalls.build(dockerfile, tag, arguments, target, no_cache, pull)
        messages = Api(self._api.host).messages(
            "POST", "/build", query, body=body, headers=imagecalls.TAR
        )
        return Image(self._api, imagecalls.made(_follow(messages, report), tag))

    def load(self, archive: bytes | Iterator[bytes] | BinaryIO, *, report: Report = ignore) -> None:
        """Read images from an archive that was saved."""
        body = archive if isinstance(archive, bytes) else _body(archive)
        messages = Api(self._api.host).messages(
            "POST", "/images/load", body=body, headers=imagecalls.TAR
        )
        _follow(messages, report)

    def import_archive(
        self, archive: bytes | Iterator[bytes] | BinaryIO, name: str, *, changes: Sequence[str] = ()
    ) -> Image:
        """Make an image of one layer from the tar of a file system."""
        query = imagecalls.imported(name, changes)
        body = archive if isinstance(archive, bytes) else _body(archive)
        messages = Api(self._api.host).messages(
            "POST", "/images/create", query, body=body, headers=imagecalls.TAR
        )
        _follow(messages, ignore)
        return Image(self._api, name)

    def prune(self, *, all: bool = False) -> int:
        """Remove images without a name (or ``all`` without a container); the bytes freed."""
        return int(
            self._api.post("/images/prune", imagecalls.pruned(all)).get("SpaceReclaimed") or 0
        )


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
