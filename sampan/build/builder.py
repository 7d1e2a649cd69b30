"""One build from request to result."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from sampan.build.context import Context
from sampan.build.dockerfile import parse
from sampan.build.dockerfile.ast import Dockerfile
from sampan.build.dockerfile.check import check, options_of
from sampan.build.exporter import Exporter
from sampan.build.graph.ops import Vertex as Node
from sampan.build.graph.plan import Plan, Planner
from sampan.build.narrator import Narrator
from sampan.build.ops.exec import HOSTNAME, ExecRunner, ExecSettings, parse_security_options
from sampan.build.ops.mounts import MountSetup
from sampan.build.ops.remote import Remote
from sampan.build.ops.runner import OperationRunner
from sampan.build.outputs import write_archive, write_folder, write_tar
from sampan.build.solver.inline import import_steps, steps_of
from sampan.build.solver.scheduler import Solver
from sampan.build.types import (
    BuildDeps,
    BuildEvent,
    BuildRequest,
    BuildResult,
    BuildWarning,
    StepDone,
    StepProgress,
    StepStarted,
    Vertex,
)
from sampan.errors import InvalidParameter, NotFound, Unauthorized, Unavailable
from sampan.image.config import ImageConfig
from sampan.image.digest import sha256
from sampan.image.manifest import Platform
from sampan.image.reference import InvalidReference, Reference
from sampan.progress import Progress
from sampan.store.images import Image

_MAX_DOCKERFILE = 16 << 20


async def run(
    request: BuildRequest, deps: BuildDeps, report: Callable[[BuildEvent], None]
) -> BuildResult:
    """See :func:`sampan.build.build`."""
    tags = tuple(_reference(tag) for tag in request.tags)
    build = _Build(request, deps, report)
    with deps.images.lease():
        try:
            return await build.run(tags)
        finally:
            await build.close()


class _Build:
    def __init__(
        self, request: BuildRequest, deps: BuildDeps, report: Callable[[BuildEvent], None]
    ) -> None:
        self.request = request
        self.deps = deps
        self.report = report
        self.platform = parse_platform(request.platform)
        self.folders: dict[str, Context] = {}
        self.contexts: dict[str, str] = {}
        self.images: dict[tuple[str, str], asyncio.Task[Image]] = {}
        self.remote = Remote(deps.state_dir / "tmp" / "build" / secrets.token_hex(8))
        self.solver: Solver | None = None
        self.execs: ExecRunner | None = None
        self.runner: OperationRunner | None = None
        self._was_there = False
        for output in request.outputs:
            if output.type in ("local", "tar", "oci", "docker") and output.dest is None:
                raise InvalidParameter(f"dest is required for the {output.type} output")
        given = {k: v for k, v in request.build_args.items() if v is not None}
        self.build_args = given
        self.epoch = request.source_date_epoch
        if self.epoch is None and given.get("SOURCE_DATE_EPOCH"):
            try:
                self.epoch = int(given["SOURCE_DATE_EPOCH"])
            except ValueError:
                raise InvalidParameter(
                    f"invalid SOURCE_DATE_EPOCH {given['SOURCE_DATE_EPOCH']!r}: it is a number of"
                    " seconds"
                ) from None

    async def close(self) -> None:
        for task in self.images.values():
            task.cancel()
        if self.solver is not None:
            await self.solver.close()
        if self.execs is not None:
            await self.execs.close()
        await asyncio.to_thread(self.remote.close)

    async def run(self, tags: tuple[Reference, ...]) -> BuildResult:
        request = self.request
        await asyncio.to_thread(self._open_folders)
        tree = parse(self._dockerfile(), request.dockerfile)
        plan = await self._plan(tree)
        warnings = self._check(tree, plan)
        if request.check_only:
            return BuildResult(None, (), warnings, plan.unused_args)
        self._check_permissions(plan)
        narrator = Narrator(plan, self.report)
        self.runner = self._runner(narrator)
        shared = self.deps.shared
        self.solver = Solver(shared.cache, self.runner, narrator, shared.flights)
        await self._import_cache()
        narrator.begin()
        target = plan.target
        await self._solve(target.draft.vertex)
        target.draft.labels.update(request.labels)
        image = await self._image_result(plan, tags) if self._wants_image() else None
        if image is not None:
            await self._archives(image, tags)
            if not any(output.type == "image" for output in request.outputs):
                self._forget(image)
                image = None
        await self._files(target.draft.vertex)
        narrator.finish(None if image is None else image.id)
        shared.cache.touch([record for record in self.solver.used if record.uses])
        names = tuple(tag.familiar() for tag in tags) if image is not None else ()
        return BuildResult(None if image is None else image.id, names, warnings, plan.unused_args)

    # results

    def _wants_image(self) -> bool:
        return any(output.type in ("image", "oci", "docker") for output in self.request.outputs)

    async def _image_result(self, plan: Plan, tags: tuple[Reference, ...]) -> Image:
        """Assemble and register the image, under its tags if it is to stay."""
        request, deps = self.request, self.deps
        assert self.solver is not None
        exporter = Exporter(deps.images, deps.shared.cache, self.epoch)
        assembled = await exporter.assemble(
            plan.target,
            await self._base(plan),
            self.solver,
            request.annotations,
            inline_cache=self.build_args.get("BUILDKIT_INLINE_CACHE") in ("1", "true"),
            squash=request.squash,
        )
        stays = any(output.type == "image" for output in request.outputs)
        self._was_there = stays or self._exists(sha256(assembled.config))
        return exporter.register(assembled, tags if stays else ())

    def _exists(self, image_id: str) -> bool:
        try:
            self.deps.images.get(image_id)
        except NotFound:
            return False
        return True

    def _forget(self, image: Image) -> None:
        """Remove an image that was made only to be written to an archive."""
        if not self._was_there:
            self.deps.images.delete(image.id)

    async def _archives(self, image: Image, tags: tuple[Reference, ...]) -> None:
        for output in self.request.outputs:
            if output.type in ("oci", "docker") and output.dest is not None:
                await write_archive(self.deps.images, image, tags, output.dest)

    async def _files(self, vertex: Node | None) -> None:
        """Write folders and tars of the result's files."""
        assert self.solver is not None
        wanted = [output for output in self.request.outputs if output.type in ("local", "tar")]
        if not wanted:
            return
        result = await self.solver.solve(vertex)
        if result.record is None and result.snapshot is not None and self.runner is not None:
            await self.runner.ready(result)
        for output in wanted:
            assert output.dest is not None
            write = write_folder if output.type == "local" else write_tar
            await asyncio.to_thread(write, self.deps.snapshots, result.snapshot, output.dest)

    async def _solve(self, vertex: Node | None) -> None:
        assert self.solver is not None
        await self.solver.solve(vertex)

    # input

    def _dockerfile(self) -> str:
        request = self.request
        data = request.dockerfile_text
        if data is None:
            if request.context is None:
                raise InvalidParameter("a build needs a context or a Dockerfile")
            data = self.folders["context"].read(request.dockerfile, _MAX_DOCKERFILE)
            if not data:
                raise InvalidParameter(
                    f"Cannot locate specified Dockerfile: {request.dockerfile} (missing or empty)"
                )
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidParameter(
                f"{request.dockerfile} is not UTF-8 text: byte {error.start} is invalid"
            ) from None

    def _open_folders(self) -> None:
        request = self.request
        if request.context is not None:
            self.folders["context"] = Context(request.context, request.dockerfile)
        for name, value in request.named_contexts.items():
            if isinstance(value, Path):
                self.folders[name] = Context(value)
                self.contexts[name] = f"local://{name}"
            elif value.startswith("docker-image://"):
                self.contexts[name] = value
            else:
                raise InvalidParameter(
                    f"unsupported context source {value!r} for {name}: use a folder or"
                    " docker-image://NAME"
                )

    async def _plan(self, tree: Dockerfile) -> Plan:
        request = self.request
        planner = Planner(
            tree,
            self._resolve,
            build_args=self.build_args,
            target=request.target,
            platform=self.platform,
            named_contexts=self.contexts,
            no_cache=request.no_cache,
            no_cache_filter=request.no_cache_filter,
            network=request.network_mode or "default",
        )
        return await planner.plan()

    def _check(self, tree: Dockerfile, plan: Plan) -> tuple[BuildWarning, ...]:
        """Run the linter and tell its findings; raises InvalidParameter if they are errors."""
        text = self.build_args.get("BUILDKIT_DOCKERFILE_CHECK") or tree.directives.get("check", "")
        options = options_of(text)
        context = self.folders.get("context")
        findings = check(
            tree,
            plan.undefined,
            (lambda path: False) if context is None else context.ignore.excludes,
            options,
        )
        warnings = tuple(
            BuildWarning(
                finding.rule,
                finding.message,
                finding.description,
                finding.url,
                finding.span.line,
                tree.source.excerpt(finding.span),
            )
            for finding in findings
        )
        for warning in warnings:
            self.report(warning)
        if warnings and options.error:
            first = warnings[0]
            raise InvalidParameter(
                f"lint violation found for rules: {', '.join(sorted({w.rule for w in warnings}))}:"
                f" {first.message} (line {first.line})"
            )
        return warnings

    def _check_permissions(self, plan: Plan) -> None:
        for stage in plan.stages:
            for step in stage.steps:
                security = getattr(step.instruction, "security", "")
                if security == "insecure" and not self.request.allow_insecure:
                    raise InvalidParameter(
                        f"{step.text}: security.insecure is not allowed: give --allow"
                        " security.insecure"
                    )

    # images

    async def _resolve(self, name: str, platform: str) -> ImageConfig:
        return (await self._image(name, platform)).config

    async def _image(self, name: str, platform: str) -> Image:
        key = (name, platform)
        if key not in self.images:
            self.images[key] = asyncio.create_task(self._find(name, platform))
        return await asyncio.shield(self.images[key])

    async def _find(self, name: str, platform: str) -> Image:
        """The image from the store; pulled when it is not there, or when asked for anew."""
        wanted = parse_platform(platform)
        if not self.request.pull:
            try:
                image = self.deps.images.get(name)
            except NotFound:
                pass
            else:
                if wanted is None or _fits(image.config, wanted) or not self.request.platform:
                    return image
        vertex = Vertex(
            f"pull:{name}", f"[internal] load metadata for {name}", 0, 0, f"pull {name}"
        )
        self.report(StepStarted(vertex, time.time()))

        def progress(item: Progress) -> None:
            loop.call_soon_threadsafe(self.report, StepProgress(vertex, item))

        loop = asyncio.get_running_loop()
        explicit = wanted if self.request.platform else None
        image = await self.deps.pull(_reference(name), explicit, progress)
        self.report(StepDone(vertex, image.id.rpartition(":")[2], "", time.time()))
        return image

    async def _import_cache(self) -> None:
        """Learn the steps of the ``cache_from`` images; one that cannot be had is no error."""
        for name in self.request.cache_from:
            try:
                image = await self._image(name, "")
            except (NotFound, Unavailable, Unauthorized, InvalidParameter):
                continue
            steps = steps_of(image.raw_config)
            if steps:
                await self.deps.images.unpack(image)
                layers = self.deps.images.layers_of(image.id)
                import_steps(self.deps.shared.cache, steps, layers)

    async def _base(self, plan: Plan) -> Image | None:
        vertex = plan.target.draft.base_vertex
        if vertex is None or plan.target.draft.base is None:
            return None
        op = vertex.op
        name = op.identifier.removeprefix("docker-image://")  # type: ignore[union-attr]
        return await self._image(name, op.attr("platform"))  # type: ignore[union-attr]

    # work

    def _runner(self, narrator: Narrator) -> OperationRunner:
        request, deps = self.request, self.deps
        settings = ExecSettings(
            extra_hosts=request.extra_hosts,
            shm_size=request.shm_size or 64 << 20,
            rlimits=request.ulimits,
            resources=request.resources,
            cgroup_parent=request.cgroup_parent,
            hostname=self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or HOSTNAME,
            **parse_security_options(request.security_opt),
        )
        self.execs = ExecRunner(deps.spawner, deps.networks, deps.snapshots, deps.run_dir, settings)
        mounts = MountSetup(
            deps.snapshots,
            deps.shared.cache,
            deps.shared.mounts,
            deps.run_dir,
            self.folders,
            request.secrets,
            request.ssh,
        )
        return OperationRunner(
            deps.images,
            deps.snapshots,
            self.execs,
            mounts,
            self.remote,
            self._image,
            self.folders,
            narrator.text,
            narrator.running,
            narrator.output,
        )


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise InvalidParameter(f"invalid reference {text!r}: {error}") from None


def _fits(config: ImageConfig, wanted: Platform) -> bool:
    return config.architecture == wanted.architecture and config.os == wanted.os


def parse_platform(text: str) -> Platform | None:
    """``os/arch[/variant]`` or ``arch``; None for an empty string.  Raises InvalidParameter."""
    if not text:
        return None
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", parts[0]]
    if len(parts) > 3 or not all(parts):
        raise InvalidParameter(f"invalid platform {text!r}: write it like linux/arm64")
    return Platform(os=parts[0], architecture=parts[1], variant="".join(parts[2:]))
