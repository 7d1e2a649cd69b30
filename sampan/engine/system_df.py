"""What takes how much space: ``system df``."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.builds import Builds
from sampan.engine.filters import EVERYTHING
from sampan.engine.images import Images
from sampan.engine.listing import Listing
from sampan.engine.volumes import Volume, Volumes

KINDS = ("container", "image", "volume", "build-cache")


@dataclass(slots=True)
class Usage:
    """What was asked for; None for what was not.

    ``volumes`` come with their bytes (-1 when unknown) and the containers that use them.
    """

    layers_size: int = 0
    images: list[dict[str, Any]] | None = None
    containers: list[dict[str, Any]] | None = None
    volumes: list[tuple[Volume, int, int]] | None = None
    build_cache: list[dict[str, Any]] | None = None
    builder_size: int = field(default=0)


class DiskUsage:
    """Adds up the nouns."""

    def __init__(self, images: Images, listing: Listing, volumes: Volumes, builds: Builds) -> None:
        self._images = images
        self._listing = listing
        self._volumes = volumes
        self._builds = builds

    async def measure(self, kinds: Collection[str] = KINDS) -> Usage:
        """The usage of these kinds.  Walks the volumes: it may take a while, in a thread."""
        usage = Usage()
        if "image" in kinds:
            found = self._images.list()
            usage.images = [*await asyncio.to_thread(self._images.summaries, found, True)]
            usage.layers_size = await asyncio.to_thread(self._images.layers_size)
        if "container" in kinds:
            usage.containers = self._listing.documents(EVERYTHING, everything=True, size=True)
        if "volume" in kinds:
            usage.volumes = [
                (volume, *await self._volumes.usage(volume)) for volume in self._volumes.list()
            ]
        if "build-cache" in kinds:
            usage.build_cache = [*await self._builds.cache()]
            usage.builder_size = sum(record["Size"] for record in usage.build_cache)
        return usage
