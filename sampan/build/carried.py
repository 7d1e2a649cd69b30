"""Images made of a build's steps besides its result: its cache, and the state before a step.

A cache image holds the layers of all steps that it tells of, whatever stage they are of, one after
the other; it is not to be run.  Its configuration says for each step which layers it lies on.
"""

from __future__ import annotations

from sampan.build.bases import Bases
from sampan.build.exporter import Exporter
from sampan.build.graph.ops import Exec, Source, Vertex
from sampan.build.graph.plan import Plan
from sampan.build.graph.scope import host_platform
from sampan.build.solver.inline import InlineStep, add_to_config
from sampan.build.solver.scheduler import Solver
from sampan.image import config as image_config
from sampan.image.config import ImageConfig, RootFS, RunConfig
from sampan.store.images import Image, ImageStore
from sampan.store.layers import LayerRef


class Carrier:
    """Makes such images of one build."""

    def __init__(
        self, images: ImageStore, bases: Bases, solver: Solver, exporter: Exporter
    ) -> None:
        self._images = images
        self._bases = bases
        self._solver = solver
        self._exporter = exporter

    async def cache(self, plan: Plan, *, everything: bool) -> Image:
        """The steps of the target's stage; with ``everything``, of all stages that it needs."""
        stages = plan.stages if everything else (plan.target,)
        stacks: dict[str, list[LayerRef]] = {}
        vertices: list[Vertex] = []
        for stage in stages:
            if stage.draft.vertex is not None and self._solver.solved(stage.draft.vertex):
                vertices += await self._stack(stage.draft.vertex, stacks)
        order: list[LayerRef] = []
        numbers: dict[str, int] = {}
        steps = []
        for vertex in {vertex.digest: vertex for vertex in vertices}.values():
            record = self._solver.result(vertex).record
            if record is None:
                continue
            stack = stacks[vertex.digest]
            for layer in stack:
                if layer.diff_id not in numbers:
                    numbers[layer.diff_id] = len(order)
                    order.append(layer)
            steps.append(
                InlineStep(
                    record.id,
                    record.keys,
                    record.created,
                    0,
                    record.empty,
                    record.description,
                    [numbers[layer.diff_id] for layer in stack],
                )
            )
        platform = host_platform()
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os or "linux",
            rootfs=RootFS(diff_ids=[layer.diff_id for layer in order]),
            created="1970-01-01T00:00:00Z",
        )
        data = add_to_config(image_config.encode(config), steps)
        return self._images.register(data, order, None, ())

    async def before(self, vertex: Vertex) -> Image | None:
        """What a command found that failed: its files, variables, directory and user."""
        op = vertex.op
        if not isinstance(op, Exec):
            return None
        stacks: dict[str, list[LayerRef]] = {}
        base = vertex.inputs[0] if vertex.inputs else None
        if base is None:
            return None
        await self._stack(base, stacks)
        layers = stacks[base.digest]
        platform = host_platform()
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os or "linux",
            config=RunConfig(
                env=[*op.env], working_dir=op.cwd, user=op.user, cmd=[*op.args], entrypoint=[]
            ),
            rootfs=RootFS(diff_ids=[layer.diff_id for layer in layers]),
            created="1970-01-01T00:00:00Z",
        )
        return self._images.register(image_config.encode(config), layers, None, ())

    async def _stack(self, vertex: Vertex, stacks: dict[str, list[LayerRef]]) -> list[Vertex]:
        """Put the layers of a vertex, and of all that it lies on, into ``stacks``; returns these
        vertices, lowest first."""
        line = [vertex]
        while line[-1].inputs and (below := line[-1].inputs[0]) is not None:
            line.append(below)
        line.reverse()
        for current in line:
            if current.digest in stacks:
                continue
            if isinstance(current.op, Source):
                stacks[current.digest] = await self._image_layers(current.op)
                continue
            below = current.inputs[0] if current.inputs else None
            stack = [] if below is None else stacks[below.digest]
            result = self._solver.result(current)
            if result.record is not None and not result.record.empty:
                stack = [*stack, *await self._exporter.layers([result])]
            stacks[current.digest] = stack
        return line

    async def _image_layers(self, op: Source) -> list[LayerRef]:
        if op.scheme != "docker-image":
            return []
        name = op.identifier.removeprefix("docker-image://")
        image = await self._bases.image(name, op.attr("platform"))
        return list(self._images.layers_of(image.id))
