"""From a solved plan to what was asked for: an image, archives, folders."""

from __future__ import annotations

import asyncio

from sampan.build import annotation
from sampan.build.bases import Bases
from sampan.build.exporter import Exporter
from sampan.build.graph.ops import Source
from sampan.build.graph.plan import Plan
from sampan.build.ops.runner import OperationRunner
from sampan.build.outputs import write_archive, write_folder, write_tar
from sampan.build.solver.scheduler import Solver
from sampan.build.types import BuildDeps, BuildRequest
from sampan.errors import InvalidParameter, NotFound
from sampan.image.digest import sha256
from sampan.image.reference import Reference
from sampan.store.images import Image

_ARCHIVES = ("oci", "docker")
_FILES = ("local", "tar")


def check_outputs(request: BuildRequest) -> None:
    """Raises InvalidParameter for an output that needs a destination and has none."""
    for output in request.outputs:
        if output.type in (*_ARCHIVES, *_FILES) and output.dest is None:
            raise InvalidParameter(f"dest is required for the {output.type} output")


class Results:
    """Makes the results of one build whose plan has been solved."""

    def __init__(
        self,
        request: BuildRequest,
        deps: BuildDeps,
        bases: Bases,
        solver: Solver,
        runner: OperationRunner,
        exporter: Exporter,
    ) -> None:
        self._exporter = exporter
        self._request = request
        self._deps = deps
        self._bases = bases
        self._solver = solver
        self._runner = runner

    async def make(
        self, plan: Plan, tags: tuple[Reference, ...], *, inline_cache: bool
    ) -> Image | None:
        """Carry out the outputs; returns the image if it is one of them."""
        kinds = {output.type for output in self._request.outputs}
        image = None
        if kinds & {"image", *_ARCHIVES}:
            image = await self._image(plan, tags, inline_cache, stays="image" in kinds)
        await self._files(plan)
        return image if "image" in kinds else None

    async def _image(
        self,
        plan: Plan,
        tags: tuple[Reference, ...],
        inline_cache: bool,
        *,
        stays: bool,
    ) -> Image:
        """Register the image, under its tags if it stays, and write the archives of it."""
        images = self._deps.images
        exporter = self._exporter
        assembled = await exporter.assemble(
            plan.target,
            await self._base(plan),
            self._solver,
            annotation.select(
                self._request.annotations, "manifest", str(plan.target.draft.platform)
            ),
            inline_cache=inline_cache,
            squash=self._request.squash,
        )
        was_there = self._exists(sha256(assembled.config))
        image = exporter.register(assembled, tags if stays else ())
        try:
            for output in self._request.outputs:
                if output.type in _ARCHIVES and output.dest is not None:
                    await write_archive(images, image, tags, output.dest)
        finally:
            if not stays and not was_there:
                images.delete(image.id)
        return image

    def _exists(self, image_id: str) -> bool:
        try:
            self._deps.images.get(image_id)
        except NotFound:
            return False
        return True

    async def _base(self, plan: Plan) -> Image | None:
        """The image that the target's layers lie on."""
        draft = plan.target.draft
        if draft.base_vertex is None or draft.base is None:
            return None
        source = draft.base_vertex.op
        assert isinstance(source, Source)
        name = source.identifier.removeprefix("docker-image://")
        return await self._bases.image(name, source.attr("platform"))

    async def _files(self, plan: Plan) -> None:
        """Write folders and tars of the result's files."""
        wanted = [output for output in self._request.outputs if output.type in _FILES]
        if not wanted:
            return
        result = await self._solver.solve(plan.target.draft.vertex)
        await self._runner.ready(result)
        for output in wanted:
            assert output.dest is not None
            write = write_folder if output.type == "local" else write_tar
            await asyncio.to_thread(write, self._deps.snapshots, result.snapshot, output.dest)
