"""A Dockerfile's tree to a graph, with the image configuration that goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from sampan.build.dockerfile import ast
from sampan.build.dockerfile.errors import DockerfileError, MissingSource, SyntaxProblem
from sampan.build.dockerfile.expand import expand
from sampan.build.dockerfile.locate import misplaced, mistake, place
from sampan.build.dockerfile.parser import STAGE_NAME, parse_instruction
from sampan.build.graph.dispatch import Dispatcher
from sampan.build.graph.draft import Draft
from sampan.build.graph.ops import Source, Vertex
from sampan.build.graph.scope import (
    GlobalScope,
    host_platform,
    parse_platform,
    platform_args,
)
from sampan.build.graph.stages import Stages, sources_named
from sampan.errors import DiskFull, InvalidParameter, SampanError
from sampan.image.config import ImageConfig
from sampan.image.manifest import Platform
from sampan.image.reference import InvalidReference, Reference

ResolveImage = Callable[[str, str], Awaitable[ImageConfig]]


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction in the plan; ``vertex`` is None when only the configuration changes.

    ``at`` is the instruction of the file that brings it: itself, or the FROM of a trigger.
    """

    stage: int
    instruction: ast.Instruction
    text: str
    vertex: Vertex | None
    at: ast.Instruction


@dataclass(slots=True)
class StagePlan:
    stage: ast.Stage
    draft: Draft
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """``stages`` are those that the target needs, in the Dockerfile's order; ``foreign`` names
    base images for another platform than was wanted: where, the image, its platform, the wanted."""

    target: StagePlan
    stages: tuple[StagePlan, ...]
    unused_args: tuple[str, ...]
    undefined: tuple[tuple[str, ast.Instruction], ...]
    global_args: Mapping[str, str] = field(default_factory=dict)
    foreign: tuple[tuple[ast.From, str, str, str], ...] = ()


class Planner:
    """Plans one build.  ``resolve`` gives the configuration of an image: it may pull it.

    ``named_contexts`` maps names to identifiers (``docker-image://REF`` or ``local://NAME``).
    """

    def __init__(
        self,
        tree: ast.Dockerfile,
        resolve: ResolveImage,
        *,
        build_args: Mapping[str, str],
        target: str = "",
        platform: Platform | None = None,
        named_contexts: Mapping[str, str] | None = None,
        no_cache: bool = False,
        no_cache_filter: tuple[str, ...] = (),
        network: str = "default",
        surroundings: tuple[str, ...] = (),
    ) -> None:
        self.tree = tree
        self.resolve = resolve
        self.stages = Stages(tree)
        self.target = self.stages.target(target)
        self.build_platform = host_platform()
        self.platform = platform or self.build_platform
        self.named_contexts = {
            plain_name(name): identifier for name, identifier in (named_contexts or {}).items()
        }
        self.no_cache = no_cache
        self.no_cache_filter = frozenset(name.lower() for name in no_cache_filter)
        self.network = network
        self.surroundings = surroundings
        predefined = platform_args(self.build_platform, self.platform, self.target.name)
        self.scope = GlobalScope(dict(build_args), predefined)
        self._images: dict[tuple[str, str], asyncio.Task[ImageConfig]] = {}
        self._plans: dict[int, StagePlan] = {}
        self._open: set[int] = set()
        self._local = Vertex(Source("local://context"))
        self._undefined: list[tuple[str, ast.Instruction]] = []
        self._foreign: list[tuple[ast.From, str, str, str]] = []

    async def plan(self) -> Plan:
        """Raises DockerfileError (MissingSource for what ``resolve`` raises) and DiskFull."""
        for arg in self.tree.global_args:
            self._global_arg(arg)
        needed = self._needed(self.target, set())
        try:
            self._prefetch(needed)
            target = await self._stage(self.target)
        finally:
            for task in self._images.values():
                task.cancel()
        ordered = tuple(self._plans[number] for number in sorted(self._plans))
        return Plan(
            target,
            ordered,
            self.scope.unused(),
            tuple(self._undefined),
            self.scope.declared,
            tuple(self._foreign),
        )

    # what is needed

    def _needed(self, stage: ast.Stage, seen: set[int]) -> set[int]:
        if stage.number in seen:
            return seen
        seen.add(stage.number)
        base = self.stages.base_of(stage, self._from_words(stage)[0])
        if base is not None:
            self._needed(base, seen)
        for instruction in stage.body:
            for name in sources_named(instruction):
                if plain_name(name) in self.named_contexts:
                    continue
                other = self.stages.source(name, stage, instruction)
                if other is not None:
                    self._needed(other, seen)
        return seen

    def _prefetch(self, needed: set[int]) -> None:
        """Begin to resolve all base images at once."""
        for number in sorted(needed):
            stage = self.tree.stages[number]
            image, platform = self._from_words(stage)
            if image == "scratch" or self.stages.base_of(stage, image) is not None:
                continue
            identifier = self.named_contexts.get(plain_name(image), f"docker-image://{image}")
            if identifier.startswith("docker-image://"):
                self._config(identifier.removeprefix("docker-image://"), platform)

    def _config(self, image: str, platform: str) -> asyncio.Task[ImageConfig]:
        key = (image, platform)
        task = self._images.get(key)
        if task is None:
            task = asyncio.ensure_future(self._resolve(image, platform))
            self._images[key] = task
        return task

    async def _resolve(self, image: str, platform: str) -> ImageConfig:
        return await self.resolve(image, platform)

    def _global_arg(self, arg: ast.Arg) -> None:
        for pair in arg.pairs:
            default = None if pair.value is None else self._global_expand(pair.value, arg)
            self.scope.declare(pair.key, default)

    def _global_expand(self, word: str, at: ast.Instruction) -> str:
        unset: set[str] = set()
        try:
            value = expand(word, self.scope.values, self.tree.escape, unset=unset)
        except SyntaxProblem as problem:
            raise misplaced(problem, self.tree.source, at) from None
        self._undefined.extend((name, at) for name in sorted(unset))
        return value

    def _from_words(self, stage: ast.Stage) -> tuple[str, str]:
        """The image and platform of a FROM, expanded."""
        origin = stage.origin
        image = self._global_expand(origin.image, origin)
        if not image:
            raise mistake(
                f"base name ({origin.image}) should not be blank: give the build argument a value",
                self.tree.source,
                origin,
                origin.image,
            )
        platform = self._global_expand(origin.platform, origin) if origin.platform else ""
        return image, platform or str(self.platform)

    # planning

    async def _stage(self, stage: ast.Stage) -> StagePlan:
        known = self._plans.get(stage.number)
        if known is not None:
            return known
        if stage.number in self._open:
            raise mistake(
                f"circular dependency detected on stage: {stage.name or stage.number}",
                self.tree.source,
                stage.origin,
                stage.origin.name or stage.origin.image,
            )
        self._open.add(stage.number)
        # Whatever this stage refers to is planned first, so that dispatching needs no await.
        others: dict[str, Vertex | None] = {}
        for instruction in stage.body:
            for name in sources_named(instruction):
                if name not in others:
                    others[name] = await self._source(name, stage, instruction)
        plan = await self._begin(stage)
        no_cache = self.no_cache or bool(
            {stage.name, str(stage.number)} & self.no_cache_filter if self.no_cache_filter else ()
        )
        dispatcher = Dispatcher(
            plan.draft,
            self.tree.escape,
            self.scope,
            _Inputs(self._local, others),
            no_cache=no_cache,
            network=self.network,
            surroundings=self.surroundings,
        )
        origin = stage.origin
        plan.steps.append(Step(stage.number, origin, origin.text, plan.draft.vertex, origin))
        for text in self._triggers(plan, stage):
            try:
                trigger = parse_instruction(text)
                for name in sources_named(trigger):
                    if name not in others:
                        others[name] = await self._source(name, stage, trigger)
                self._apply(dispatcher, plan, trigger, origin)
            except DockerfileError as error:
                # Its text is not in this file: what brings it is marked.
                raise mistake(
                    f"ONBUILD {text!r} of {origin.image}: {error.reason}",
                    self.tree.source,
                    origin,
                    origin.image,
                ) from error
        for instruction in stage.body:
            self._apply(dispatcher, plan, instruction, instruction)
        self._open.discard(stage.number)
        self._plans[stage.number] = plan
        return plan

    def _apply(
        self, dispatcher: Dispatcher, plan: StagePlan, i: ast.Instruction, at: ast.Instruction
    ) -> None:
        try:
            vertex = dispatcher.apply(i)
        except SyntaxProblem as problem:
            raise misplaced(problem, self.tree.source, i) from None
        self._undefined.extend((name, i) for name in sorted(dispatcher.unset))
        plan.steps.append(Step(plan.stage.number, i, i.text, vertex, at))

    async def _begin(self, stage: ast.Stage) -> StagePlan:
        image, platform = self._from_words(stage)
        base = self.stages.base_of(stage, image)
        if base is not None and plain_name(image) not in self.named_contexts:
            return StagePlan(stage, (await self._stage(base)).draft.child())
        wanted = self._platform(platform, stage.origin)
        if image == "scratch":
            return StagePlan(stage, Draft.scratch(wanted))
        identifier = self.named_contexts.get(plain_name(image), f"docker-image://{image}")
        if not identifier.startswith("docker-image://"):
            draft = Draft.scratch(wanted)
            draft.vertex = draft.base_vertex = Vertex(Source(identifier))
            return StagePlan(stage, draft)
        name = identifier.removeprefix("docker-image://")
        config = await self._found(name, platform, stage.origin, stage.origin.image)
        if config.architecture and (config.os, config.architecture) != (
            wanted.os,
            wanted.architecture,
        ):
            actual = Platform(config.architecture, config.os, variant=config.variant)
            self._foreign.append((stage.origin, name, str(actual), str(wanted)))
        return StagePlan(stage, Draft.on_image(config, self._image(name, platform), wanted))

    def _image(self, name: str, platform: str) -> Vertex:
        return Vertex(Source(f"docker-image://{name}", (("platform", platform),)))

    async def _source(self, name: str, user: ast.Stage, at: ast.Instruction) -> Vertex | None:
        identifier = self.named_contexts.get(plain_name(name))
        if identifier is None:
            stage = self.stages.source(name, user, at)
            if stage is not None:
                return (await self._stage(stage)).draft.vertex
            if name == "scratch":
                return None
            identifier = f"docker-image://{name}"
        if not identifier.startswith("docker-image://"):
            return Vertex(Source(identifier))
        image = identifier.removeprefix("docker-image://")
        await self._found(image, str(self.platform), at, name)
        return self._image(image, str(self.platform))

    async def _found(
        self, image: str, platform: str, at: ast.Instruction, word: str
    ) -> ImageConfig:
        """The configuration of the image that ``word`` of an instruction stands for.

        Raises MissingSource, DiskFull.
        """
        try:
            return await self._config(image, platform)
        except DiskFull:
            raise
        except SampanError as error:
            span = place(at, word)
            reason = f"{self._missing(image, platform, at, word)}: {error}"
            raise MissingSource(reason, self.tree.source, span, error.status) from error

    def _missing(self, image: str, platform: str, at: ast.Instruction, word: str) -> str:
        name = image.lower()
        wanted = "" if platform in (str(self.build_platform), "") else f" for {platform}"
        if plain_name(word) in self.named_contexts:
            return f"build context {word!r}: the image {image} cannot be had{wanted}"
        if not STAGE_NAME.match(name):
            return f"the image {image} cannot be had{wanted}"
        which = "earlier stage" if isinstance(at, ast.From) else "stage"
        near = self.stages.near(name, at, self.named_contexts)
        return (
            f"there is no {which} or build context {image!r}{near}, and no image of that name can"
            f" be had{wanted}"
        )

    def _platform(self, text: str, origin: ast.From) -> Platform:
        try:
            return parse_platform(text) or self.platform
        except InvalidParameter as error:
            raise mistake(str(error), self.tree.source, origin, origin.platform) from None

    def _triggers(self, plan: StagePlan, stage: ast.Stage) -> list[str]:
        """The base image's ONBUILD instructions (or the base stage's)."""
        base = self.stages.base_of(stage, self._from_words(stage)[0])
        if base is not None and base.number in self._plans:
            return self._plans[base.number].draft.on_build
        if plan.draft.base is not None:
            return plan.draft.base.config.on_build or []
        return []


class _Inputs:
    def __init__(self, local: Vertex, others: Mapping[str, Vertex | None]) -> None:
        self._local = local
        self._others = others

    def local(self) -> Vertex:
        return self._local

    def named(self, name: str, at: ast.Instruction) -> Vertex | None:
        return self._others[name]


def plain_name(name: str) -> str:
    """What a name and a named context are compared by: ``docker.io/library/a:latest`` is ``a``."""
    try:
        return Reference.parse(name.lower()).familiar().removesuffix(":latest")
    except InvalidReference:
        return name.lower()
