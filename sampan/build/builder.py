"""One build from request to result."""

from __future__ import annotations

import asyncio
import posixpath
import secrets
from collections.abc import Callable

from sampan.build import emulation
from sampan.build.bases import Bases, parse_reference
from sampan.build.carried import Carrier
from sampan.build.context import Context
from sampan.build.dockerfile import parse
from sampan.build.dockerfile.ast import Dockerfile, Run
from sampan.build.dockerfile.check import check, options_of
from sampan.build.dockerfile.locate import mistake
from sampan.build.errors import StepError
from sampan.build.exporter import Exporter
from sampan.build.graph import ops, outline
from sampan.build.graph.plan import Plan, Planner
from sampan.build.graph.scope import parse_platform
from sampan.build.narrator import Narrator
from sampan.build.ops.exec import HOSTNAME, ExecRunner, ExecSettings, parse_security_options
from sampan.build.ops.mounts import MountSetup
from sampan.build.ops.remote import Remote
from sampan.build.ops.runner import OperationRunner
from sampan.build.results import Results, check_outputs
from sampan.build.solver.scheduler import Result, Solver
from sampan.build.types import (
    BuildDeps,
    BuildEvent,
    BuildRequest,
    BuildResult,
    BuildWarning,
)
from sampan.errors import InvalidParameter
from sampan.image.reference import Reference

_MAX_DOCKERFILE = 16 << 20
DEFAULT_SHM_SIZE = 64 << 20


async def run(
    request: BuildRequest, deps: BuildDeps, report: Callable[[BuildEvent], None]
) -> BuildResult:
    """See :func:`sampan.build.build`."""
    tags = tuple(parse_reference(tag) for tag in request.tags)
    build = _Build(request, deps, report)
    async with deps.shared.parents.used(request.cgroup_parent, deps.groups):
        with deps.images.lease():
            try:
                return await build.run(tags)
            finally:
                await build.close()
                deps.shared.settle(deps.state_dir)


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
        self.bases = Bases(request, deps, report)
        self.remote = Remote(deps.state_dir / "tmp" / "build" / secrets.token_hex(8))
        self.solver: Solver | None = None
        self.execs: ExecRunner | None = None
        self.ending: asyncio.Task[None] | None = None
        self.exporter: Exporter | None = None
        check_outputs(request)
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
        self.bases.close()
        if self.solver is not None:
            await self.solver.close()
        if self.exporter is not None:
            await self.exporter.close()
        if self.ending is not None:
            await self.ending
        elif self.execs is not None:
            await self.execs.close(failed=True)
        await asyncio.to_thread(self.remote.close)

    async def run(self, tags: tuple[Reference, ...]) -> BuildResult:
        request = self.request
        await asyncio.to_thread(self._open_folders)
        tree = parse(self._dockerfile(), request.dockerfile)
        if request.call == "targets":
            return BuildResult(None, answer=outline.targets(tree))
        self.execs = self._exec_runner()
        commands = any(isinstance(step, Run) for stage in tree.stages for step in stage.body)
        if request.no_cache and commands and not request.call:
            self.execs.begin(request.network_mode or "default")
        plan = await self._plan(tree)
        warnings = self._check(tree, plan)
        if request.call:
            answer = outline.findings(warnings) if request.call == "check" else None
            answer = answer or outline.outline(tree, plan)
            return BuildResult(None, (), warnings, plan.unused_args, answer=answer)
        self._check_permissions(tree, plan)
        emulation.check(plan)
        narrator = Narrator(plan, tree.source, self.report)
        runner = self._runner(self.execs, narrator)
        shared = self.deps.shared
        exporter = self.exporter = Exporter(self.deps.images, shared.cache, self.epoch)
        self.solver = Solver(
            shared.cache, runner, narrator, shared.flights, self._layers_begin(plan, exporter)
        )
        await self.bases.import_cache()
        narrator.begin()
        carrier = Carrier(
            self.deps.images,
            self.bases,
            self.solver,
            exporter,
        )
        try:
            await self.solver.solve(plan.target.draft.vertex)
        except StepError as error:
            if request.keep_failed_state and self.solver.failed is not None:
                before = await carrier.before(self.solver.failed)
                error.state_before = before.id if before is not None else ""
            raise
        # The network is given back while the last layers are written.
        self.ending = asyncio.create_task(self.execs.close())
        plan.target.draft.labels.update(request.labels)
        results = Results(request, self.deps, self.bases, self.solver, runner, exporter)
        inline = self.build_args.get("BUILDKIT_INLINE_CACHE") in ("1", "true")
        image = await results.make(plan, tags, inline_cache=inline)
        shared.cache.touch(self.solver.hits)
        cache_id = ""
        if request.cache_export:
            everything = request.cache_export == "max"
            cache_id = (await carrier.cache(plan, everything=everything)).id
        narrator.finish(image.id if image is not None else None)
        names = tuple(tag.familiar() for tag in tags) if image is not None else ()
        return BuildResult(
            image.id if image is not None else None,
            names,
            warnings,
            plan.unused_args,
            cache_id,
            tuple(await self.bases.materials()),
        )

    def _layers_begin(self, plan: Plan, exporter: Exporter) -> Callable[[ops.Vertex, Result], None]:
        """What begins to make a step's layer once it has run, if the result is to have it."""
        kinds = {output.type for output in self.request.outputs}
        wanted = {
            record.vertex.digest
            for record in plan.target.draft.history
            if record.vertex is not None
        }
        if self.request.squash or not kinds & {"image", "oci", "docker"}:
            wanted.clear()

        def finished(vertex: ops.Vertex, result: Result) -> None:
            if vertex.digest in wanted:
                exporter.begin(result)

        return finished

    # input

    def _dockerfile(self) -> str:
        request = self.request
        data = request.dockerfile_text
        if data is None:
            if request.context is None:
                raise InvalidParameter("a build needs a context or a Dockerfile")
            if posixpath.normpath(request.dockerfile).startswith("../"):
                raise InvalidParameter(
                    f"forbidden path outside the build context: {request.dockerfile}"
                )
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
            if not isinstance(value, str):
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
            self.bases.config,
            build_args=self.build_args,
            target=request.target,
            platform=self.platform,
            named_contexts=self.contexts,
            no_cache=request.no_cache,
            no_cache_filter=request.no_cache_filter,
            network=request.network_mode or "default",
            surroundings=self._surroundings(),
        )
        return await planner.plan()

    def _surroundings(self) -> tuple[str, ...]:
        """What a command can see of the request's settings, where they are not the usual ones."""
        request = self.request
        found = [f"host {host}" for host in sorted(request.extra_hosts)]
        if hostname := self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME"):
            found.append(f"hostname {hostname}")
        if request.shm_size not in (0, DEFAULT_SHM_SIZE):
            found.append(f"shm {request.shm_size}")
        for limit in request.ulimits:
            found.append(f"limit {sorted(limit.items())}")
        return tuple(found)

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
            plan.foreign,
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

    def _check_permissions(self, tree: Dockerfile, plan: Plan) -> None:
        for stage in plan.stages:
            for step in stage.steps:
                security = getattr(step.instruction, "security", "")
                if security == "insecure" and not self.request.allow_insecure:
                    raise mistake(
                        "security.insecure is not allowed: give --allow security.insecure",
                        tree.source,
                        step.at,
                    )

    # work

    def _exec_runner(self) -> ExecRunner:
        request, deps = self.request, self.deps
        settings = ExecSettings(
            extra_hosts=request.extra_hosts,
            shm_size=request.shm_size or DEFAULT_SHM_SIZE,
            rlimits=request.ulimits,
            resources=request.resources,
            groups=deps.groups,
            apparmor=deps.apparmor,
            cgroup_parent=request.cgroup_parent,
            hostname=self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") or HOSTNAME,
            **parse_security_options(request.security_opt),
        )
        return ExecRunner(
            deps.spawner,
            deps.networks,
            deps.snapshots,
            deps.run_dir,
            settings,
            deps.shared.stubs,
        )

    def _runner(self, execs: ExecRunner, narrator: Narrator) -> OperationRunner:
        request, deps = self.request, self.deps
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
            execs,
            mounts,
            self.remote,
            self.bases.image,
            self.folders,
            narrator.text,
            narrator.running,
            narrator.output,
        )
