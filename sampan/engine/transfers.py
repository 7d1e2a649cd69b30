"""Images from and to archives: save, load, import."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime

import aiohttp

from sampan import __version__
from sampan.build.graph.scope import host_platform
from sampan.engine import changes as config_changes
from sampan.engine.events import Events
from sampan.engine.images import (
    Images,
    describe,
    event_attributes,
    parse_name,
    provides,
)
from sampan.errors import InvalidParameter, NotFound, Unavailable
from sampan.image.config import ImageConfig, RunConfig
from sampan.image.manifest import Platform
from sampan.image.reference import InvalidReference, Reference
from sampan.progress import Progress, Report
from sampan.store.archives import Archives
from sampan.store.images import Image

CHUNK = 1 << 20
Saved = tuple[Image, Sequence[Reference]]


class Transfers:
    """Writes images into archives and reads them back."""

    def __init__(self, archives: Archives, images: Images, events: Events) -> None:
        self._archives = archives
        self._images = images
        self._events = events

    def resolve(self, names: Iterable[str], platform: Platform | None = None) -> list[Saved]:
        """The images to save, each with the names to save it under.  Raises NotFound.

        A repository without a tag means all of its tags; an ID is saved without a name.
        """
        saved: dict[str, tuple[Image, list[Reference]]] = {}
        for name in names:
            for image, references in self._resolve_one(name, platform):
                _, known = saved.setdefault(image.id, (image, []))
                known += [reference for reference in references if reference not in known]
        return list(saved.values())

    def save(self, saved: Iterable[Saved]) -> AsyncIterator[bytes]:
        """A tar with the images that :meth:`resolve` found."""
        saved = list(saved)
        for image, _ in saved:
            self._publish("save", image, image.id)
        return self._archives.save(saved)

    async def load(
        self, stream: AsyncIterable[bytes], report: Report, platform: Platform | None = None
    ) -> Sequence[Image]:
        """Register the images of an archive.

        Raises InvalidParameter, or NotFound when one is not for ``platform``.
        """
        before = {image.id for image in self._images.list(everything=True)}
        images = await self._archives.load(stream, report)
        wrong = [image for image in images if platform and not provides(image, platform)]
        if wrong:
            for image in images:
                if image.id not in before:
                    await self._images.remove(image.id, force=True)
            raise NotFound(
                f"the archive's image {describe(wrong[0])} is not for the specified platform "
                f"({platform})"
            )
        for image in images:
            self._publish("load", image, image.id)
        return images

    async def import_(
        self,
        stream: AsyncIterable[bytes],
        report: Report,
        *,
        repository: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: Platform | None = None,
    ) -> Image:
        """An image of one layer from a root file system's tar.  Raises InvalidParameter."""
        reference = parse_name(repository, tag) if repository else None
        ours = host_platform()
        config = ImageConfig(
            architecture=platform.architecture if platform else ours.architecture,
            variant=platform.variant if platform else ours.variant,
            os="linux",
            created=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            config=config_changes.apply(RunConfig(), changes),
            comment=message or "Imported from -",
            docker_version=__version__,
        )
        image = await self._archives.import_(stream, config, reference, report)
        if reference is not None:
            self._publish("tag", image, reference.familiar())
        self._publish("import", image, image.id)
        return image

    def _resolve_one(self, name: str, platform: Platform | None) -> list[Saved]:
        try:
            reference = Reference.parse_name(name)
        except InvalidReference:
            reference = None
        if reference is not None and not reference.tag and not reference.digest:
            tagged = [
                (image, [other])
                for image in self._images.list(everything=True)
                for other in map(Reference.parse_name, image.repo_tags)
                if other.name == reference.name and (not platform or provides(image, platform))
            ]
            if tagged:
                return [*tagged]
        image = self._images.get(name, platform)
        named = (
            reference is not None
            and reference.tag
            and not reference.digest
            and reference.familiar() in image.repo_tags
        )
        return [(image, [reference] if named and reference is not None else [])]

    def _publish(self, action: str, image: Image, name: str) -> None:
        self._events.publish("image", action, image.id, event_attributes(image, name))


async def download(url: str, report: Report) -> AsyncIterator[bytes]:
    """The body of an HTTP(S) address.  Raises InvalidParameter, NotFound or Unavailable."""
    if not url.startswith(("http://", "https://")):
        url = f"http://{url}"
    report(Progress(f"Downloading from {url}"))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    try:
        async with (
            aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, trust_env=True
            ) as session,
            session.get(url) as answer,
        ):
            if answer.status == 404:
                raise NotFound(f"{url}: not found")
            if answer.status != 200:
                raise Unavailable(f"{url}: the server answers {answer.status} {answer.reason}")
            total, done = answer.content_length or 0, 0
            async for chunk in answer.content.iter_chunked(CHUNK):
                done += len(chunk)
                report(Progress("Importing", "", done, total))
                yield chunk
    except (aiohttp.InvalidURL, UnicodeError):
        raise InvalidParameter(f"{url!r} is not an address") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"cannot download {url}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """A failure to connect in the system's words; aiohttp's are about its own objects."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        if number is not None and number > 0:
            return os.strerror(number).lower()
        return str(error.os_error.strerror or error.os_error)
    return str(error) or "timed out"
