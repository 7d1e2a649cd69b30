"""Images that a build stands on or learns from: found in the store, or pulled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from sampan.build.graph.scope import host_platform, parse_platform
from sampan.build.solver.inline import import_step, is_new, steps_of
from sampan.build.types import (
    BuildDeps,
    BuildEvent,
    BuildRequest,
    StepDone,
    StepFailed,
    StepProgress,
    StepStarted,
    Vertex,
)
from sampan.errors import InvalidParameter, NotFound, SampanError, Unauthorized, Unavailable
from sampan.image.config import ImageConfig
from sampan.image.manifest import Platform
from sampan.image.reference import InvalidReference, Reference
from sampan.progress import Progress
from sampan.store.images import Image


class Bases:
    """The images of one build; each is looked for once."""

    def __init__(
        self, request: BuildRequest, deps: BuildDeps, report: Callable[[BuildEvent], None]
    ) -> None:
        self._request = request
        self._deps = deps
        self._report = report
        self._tasks: dict[tuple[str, str], asyncio.Task[Image]] = {}

    def close(self) -> None:
        """Stop what is still being looked for."""
        for task in self._tasks.values():
            task.cancel()

    async def config(self, name: str, platform: str) -> ImageConfig:
        return (await self.image(name, platform)).config

    async def image(self, name: str, platform: str) -> Image:
        """The image; raises what pulling it raises."""
        key = (name, platform)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._find(name, platform))
        return await asyncio.shield(self._tasks[key])

    async def _find(self, name: str, platform: str) -> Image:
        """From the store; pulled when it is not there, or when asked for anew."""
        wanted = parse_platform(platform)
        if not self._request.platform and wanted == host_platform():
            wanted = None  # Nobody has asked for one: what is here will do.
        if not self._request.pull:
            try:
                image = self._deps.images.get(name)
            except NotFound:
                pass
            else:
                if wanted is None or _fits(image.config, wanted):
                    return image
        return await self._pull(name, wanted)

    async def _pull(self, name: str, platform: Platform | None) -> Image:
        title = f"[internal] load metadata for {name}"
        vertex = Vertex(f"pull:{name}", title, 0, 0, f"pull {name}")
        loop = asyncio.get_running_loop()

        def progress(item: Progress) -> None:
            loop.call_soon_threadsafe(self._report, StepProgress(vertex, item))

        self._report(StepStarted(vertex, time.time()))
        try:
            image = await self._deps.pull(parse_reference(name), platform, progress)
        except SampanError as error:
            self._report(StepFailed(vertex, str(error), time.time()))
            raise
        self._report(StepDone(vertex, image.id.rpartition(":")[2], "", time.time()))
        return image

    async def import_cache(self) -> None:
        """Learn the steps of the ``cache_from`` images; one that cannot be had is no error."""
        for name in self._request.cache_from:
            try:
                image = await self.image(name, "")
            except (NotFound, Unavailable, Unauthorized, InvalidParameter):
                continue
            await self._import(image)

    async def _import(self, image: Image) -> None:
        images, cache = self._deps.images, self._deps.shared.cache
        layers = images.layers_of(image.id)
        for step in steps_of(image.raw_config):
            stack = step.stack(layers)
            if stack is not None and is_new(cache, step):
                await images.apply(stack)
                import_step(cache, step, stack)

    async def materials(self) -> list[tuple[str, str]]:
        """The images that were used, with the digests of their manifests where these are known,
        of their configurations otherwise."""
        found = []
        for (name, _), task in sorted(self._tasks.items()):
            if name in self._request.cache_from or not task.done() or task.exception():
                continue
            image = task.result()
            with contextlib.suppress(InvalidReference):
                name = Reference.parse(name).familiar()
            found.append((name, image.manifest.digest if image.manifest else image.id))
        return found


def parse_reference(text: str) -> Reference:
    """Raises InvalidParameter."""
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise InvalidParameter(f"invalid reference {text!r}: {error}") from None


def _fits(config: ImageConfig, wanted: Platform) -> bool:
    return config.architecture == wanted.architecture and config.os == wanted.os
