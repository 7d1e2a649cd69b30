"""Images of a daemon, for an event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sampan.client import imagecalls
from sampan.client.aio.api import AsyncApi
from sampan.client.aio.http import Body
from sampan.client.containers import conditions
from sampan.client.http import quote
from sampan.client.imagecalls import Following, Report, ignore
from sampan.client.models import ImageInfo


async def _follow(messages: AsyncIterator[dict[str, Any]], report: Report) -> str:
    following = Following(report)
    async for message in messages:
        following.take(message)
    return following.identifier


class AsyncImage:
    """One image, by the name or identifier it was asked for."""

    def __init__(self, api: AsyncApi, name: str) -> None:
        self._api = api
        self.name = name

    def __repr__(self) -> str:
        return f"<AsyncImage {self.name}>"

    async def inspect(self) -> ImageInfo:
        """What there is to say of it."""
        return ImageInfo.parse(await self._api.get(f"/images/{quote(self.name)}/json"))

    async def tag(self, name: str) -> None:
        """Give it another name."""
        await self._api.post(f"/images/{quote(self.name)}/tag", imagecalls.tag(name))

    async def history(self) -> list[dict[str, Any]]:
        """The steps it was made of, newest first, as the API gives them."""
        found: list[dict[str, Any]] = await self._api.get(f"/images/{quote(self.name)}/history")
        return found

    async def remove(self, *, force: bool = False) -> None:
        """Take its name away, and delete it when it has no other."""
        await self._api.delete(f"/images/{quote(self.name)}", {"force": force})

    async def push(self, *, auth: Mapping[str, str] | None = None, report: Report = ignore) -> str:
        """Upload it to the registry in its name; the manifest's digest.

        ``auth`` has ``username`` and ``password``.
        """
        path, query, headers = imagecalls.push(self.name, auth)
        messages = self._api.messages("POST", path, query, headers=headers)
        return await _follow(messages, report)

    def save(self) -> AsyncIterator[bytes]:
        """It as an archive that :meth:`AsyncImages.load` reads."""
        return self._api.stream("GET", "/images/get", {"names": [self.name]})


class AsyncImages:
    """``client.images``."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api

    async def search(self, term: str, *, limit: int = 25) -> list[dict[str, Any]]:
        """What the default registry has, as the API gives it."""
        query: dict[str, object] = {"term": term, "limit": limit}
        found: list[dict[str, Any]] = await self._api.get("/images/search", query)
        return found

    async def list(self, *, all: bool = False, **filters: str) -> list[ImageInfo]:
        """The images there are; ``filters`` are the API's (``reference="debian"``)."""
        query: dict[str, object] = {"all": all, "filters": conditions(filters)}
        return [ImageInfo.parse(raw) for raw in await self._api.get("/images/json", query)]

    async def get(self, name: str) -> AsyncImage:
        """By name or identifier; NotFound if there is none."""
        await self._api.get(f"/images/{quote(name)}/json")
        return AsyncImage(self._api, name)

    async def pull(
        self,
        name: str,
        *,
        platform: str = "",
        auth: Mapping[str, str] | None = None,
        report: Report = ignore,
    ) -> AsyncImage:
        """Download an image."""
        query, headers = imagecalls.pull(name, platform, auth)
        messages = self._api.messages("POST", "/images/create", query, headers=headers)
        await _follow(messages, report)
        return AsyncImage(self._api, name)

    async def build(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        context: Body | None = None,
        dockerfile: str = "Dockerfile",
        tag: str = "",
        arguments: Mapping[str, str] | None = None,
        target: str = "",
        no_cache: bool = False,
        pull: bool = False,
        report: Report = ignore,
    ) -> AsyncImage:
        """Build from the folder ``path``, or from ``context``, a tar stream.

        ``dockerfile`` is a path in the context.

        :raises OperationFailed: the Dockerfile is wrong or a step of it failed.
        """
        if (path is None) == (context is None):
            raise ValueError("give either a path or a context")
        body = context
        if body is None:
            body, dockerfile = imagecalls.packed(path, dockerfile)
        query = imagecalls.build(dockerfile, tag, arguments, target, no_cache, pull)
        messages = self._api.messages("POST", "/build", query, body=body, headers=imagecalls.TAR)
        return AsyncImage(self._api, imagecalls.made(await _follow(messages, report), tag))

    async def load(self, archive: Body, *, report: Report = ignore) -> None:
        """Read images from an archive that was saved."""
        await _follow(
            self._api.messages("POST", "/images/load", body=archive, headers=imagecalls.TAR), report
        )

    async def import_archive(
        self, archive: Body, name: str, *, changes: Sequence[str] = ()
    ) -> AsyncImage:
        """Make an image of one layer from the tar of a file system."""
        query = imagecalls.imported(name, changes)
        messages = self._api.messages(
            "POST", "/images/create", query, body=archive, headers=imagecalls.TAR
        )
        await _follow(messages, ignore)
        return AsyncImage(self._api, name)

    async def prune(self, *, all: bool = False) -> int:
        """Remove images without a name (or ``all`` without a container); the bytes freed."""
        freed = await self._api.post("/images/prune", imagecalls.pruned(all))
        return int(freed.get("SpaceReclaimed") or 0)
