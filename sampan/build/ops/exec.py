"""Exec operations: a command in a container on the input's tree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sampan.build.errors import StepError
from sampan.build.graph.ops import Exec
from sampan.build.ops import stubs
from sampan.build.ops.frames import Stream, read_frames
from sampan.build.ops.netns import make_namespace
from sampan.build.ops.specs import bind
from sampan.build.solver.cache import UNFINISHED
from sampan.build.solver.scheduler import Coming
from sampan.errors import Conflict, InvalidParameter, NotFound, SampanError
from sampan.linux.trees import remove_tree
from sampan.network.manager import NetworkManager
from sampan.network.types import EndpointConfig, Sandbox, SandboxRequest
from sampan.runtime.cgroups.naming import PLAIN, GroupNames
from sampan.runtime.control import Keeper
from sampan.runtime.errors import KeeperGone, StartError
from sampan.runtime.interfaces import Interface
from sampan.runtime.spawner import Spawner
from sampan.runtime.spec import default_spec, make_privileged
from sampan.runtime.types import (
    AttachRequest,
    Exited,
    KeeperEvent,
    KeeperRequest,
    LogConfig,
    Mount,
    ServiceRequest,
)
from sampan.store import overlay
from sampan.store.snapshots import Snapshotter

HOSTNAME = "buildkitsandbox"
_TAIL = 4096


@dataclass(frozen=True, slots=True)
class ExecSettings:
    """What a build asks for all its commands; ``resources`` is OCI ``linux.resources``."""

    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 64 << 20
    rlimits: tuple[Mapping[str, object], ...] = ()
    resources: Mapping[str, object] = field(default_factory=dict)
    groups: GroupNames = PLAIN
    apparmor: str = ""
    cgroup_parent: str = ""
    hostname: str = HOSTNAME
    no_new_privileges: bool = False
    seccomp: bool = True
    system_paths_masked: bool = True


def parse_security_options(options: Sequence[str]) -> dict[str, bool]:
    """``--security-opt`` values as fields of :class:`ExecSettings`.

    Raises InvalidParameter for one that builds do not have.
    """
    fields: dict[str, bool] = {}
    for option in options:
        name, separator, value = option.partition("=")
        if not separator:
            name, _, value = option.partition(":")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            fields["no_new_privileges"] = value != "false"
        elif name == "seccomp" and value == "unconfined":
            fields["seccomp"] = False
        elif name == "systempaths" and value == "unconfined":
            fields["system_paths_masked"] = False
        else:
            raise InvalidParameter(
                f"invalid security option {option!r}: a build takes no-new-privileges,"
                " seccomp=unconfined and systempaths=unconfined"
            )
    return fields


@dataclass(slots=True)
class Job:
    """One command to run: its container, where output goes, its mounts (OCI).  The result is to be
    the snapshot ``name``."""

    op: Exec
    container_id: str
    parent: str | None
    name: str
    hidden_env: tuple[str, ...]
    mounts: list[dict[str, Any]]
    env: tuple[str, ...]
    step: str
    on_start: Callable[[str], None]
    on_output: Callable[[Stream, bytes], None]
    coming: Coming


class Ran(NamedTuple):
    """The active snapshot with what a command changed; whether one on it is prepared ``ahead`` for
    the next command."""

    active: str
    ahead: bool = False


class _Root(NamedTuple):
    """An active snapshot and its mounts."""

    key: str
    mounts: list[Mount]


@dataclass(frozen=True, slots=True)
class _Place:
    """Network addresses, name files and a keeper's directory, for one command at a time.

    ``netns`` is a descriptor of the network namespace that its commands share; None for the
    host's, and for a network whose resolver the keeper must serve (each has a namespace then).
    """

    id: str
    sandbox: Sandbox
    directory: Path
    netns: int | None

    @property
    def interfaces(self) -> list[Interface]:
        """What a keeper must make: nothing in a namespace that has it all."""
        return [] if self.netns is not None else list(self.sandbox.interfaces)


class ExecRunner:
    """Runs the commands of one build; what one needs around it is kept for the next."""

    def __init__(
        self,
        spawner: Spawner,
        networks: NetworkManager,
        snapshots: Snapshotter,
        run_dir: Path,
        settings: ExecSettings,
        known_stubs: stubs.Stubs,
    ) -> None:
        self._spawner = spawner
        self._networks = networks
        self._snapshots = snapshots
        self._run_dir = run_dir
        self._settings = settings
        self._stubs = known_stubs
        self._free_places: dict[str, list[_Place]] = {}
        self._all_places: list[_Place] = []
        self._first: tuple[str, asyncio.Task[_Place]] | None = None
        """The place of the first command, of a network, while it is being made."""
        self._keys: list[str] = []
        self._ahead: dict[str, _Root] = {}
        """By the name that the snapshot below will have."""

    async def close(self, failed: bool = False) -> None:
        """Release the places that commands have run in, and the snapshots that no command has
        taken; if the build has ``failed``, all that were not committed."""
        if self._first is not None:
            await asyncio.gather(self._first[1], return_exceptions=True)
        left = self._keys if failed else [root.key for root in self._ahead.values()]
        self._ahead.clear()
        if left:
            await asyncio.to_thread(self._discard, left)
        for place in self._all_places:
            if place.netns is not None:
                os.close(place.netns)
            await self._networks.release(place.id)
            remove_tree(place.directory, ignore_errors=True)
        self._all_places.clear()
        self._free_places.clear()

    def begin(self, network: str) -> None:
        """Have the first command's place made: it is certain to be run, most likely in this
        network."""
        self._first = network, asyncio.create_task(self._make_place(network))

    async def run(self, job: Job) -> Ran:
        """Run the command.  Raises StepError when it ends with anything but 0; the snapshot is gone
        then."""
        if job.parent is not None and job.parent in self._ahead:
            key, rootfs = self._ahead.pop(job.parent)
        else:
            key, rootfs = self._prepare(job.parent)
        try:
            place = await self._take(job.op.network)
            spec = self._spec(job, place)
            sandbox = place.sandbox
            writable = overlay.writable(rootfs)
            mounts, times = self._stubs.furnish(rootfs, writable)
            request = KeeperRequest(
                id=job.container_id,
                run_dir=str(place.directory / "keeper"),
                spec=spec,
                rootfs=mounts,
                log=LogConfig("none"),
                interfaces=place.interfaces,
                attaches=[AttachRequest()],
                services=[ServiceRequest(s.name, s.config) for s in sandbox.services],
            )
            before = os.stat(writable)
            await self._execute(job, request, key)
            self._free_places[job.op.network].append(place)
            points = stubs.mount_points(spec)
            aside = overlay.scratch(rootfs)
            self._stubs.clean(writable, job.parent, job.name, points, aside, times)
            if job.name in self._ahead and not _alike(before, os.stat(writable)):
                # What comes next takes owner and mode of the root from below.
                await asyncio.to_thread(self._discard, [self._ahead.pop(job.name).key])
        except BaseException:
            ahead = self._ahead.pop(job.name, None)
            keys = [key] if ahead is None else [key, ahead.key]
            await asyncio.shield(asyncio.to_thread(self._discard, keys))
            raise
        return Ran(key, job.name in self._ahead)

    def _prepare(self, parent: str | None, becomes: str = "") -> _Root:
        key = f"{UNFINISHED}{secrets.token_hex(16)}"
        mounts = self._snapshots.prepare(key, parent, volatile=True, becomes=becomes)
        self._keys.append(key)
        return _Root(key, mounts)

    def _prepare_ahead(self, job: Job, key: str) -> None:
        """Make ready what the next command is to run on, while this one runs."""
        if job.coming.follows:
            # What is in the way of it will be told when it is needed.
            with contextlib.suppress(SampanError, OSError):
                self._ahead[job.name] = self._prepare(key, job.name)

    async def _take(self, network: str) -> _Place:
        """A place that no command uses now: an old one, or a new one."""
        free = self._free_places.setdefault(network, [])
        if free:
            return free.pop()
        if self._first is not None and self._first[0] == network:
            task, self._first = self._first[1], None
            return await task
        return await self._make_place(network)

    async def _make_place(self, network: str) -> _Place:
        place_id = secrets.token_hex(32)
        sandbox = await self._sandbox(place_id, network)
        directory = self._run_dir / "build" / place_id
        netns = None
        try:
            if network != "host" and not sandbox.services:
                netns = await _namespace(sandbox.interfaces)
        except BaseException:
            await asyncio.shield(self._networks.release(place_id))
            raise
        place = _Place(place_id, sandbox, directory, netns)
        self._all_places.append(place)
        # The keeper lays the root file system over its own directory.
        (directory / "keeper").mkdir(parents=True, mode=0o700)
        for file, content in (("hosts", sandbox.hosts), ("resolv.conf", sandbox.resolv_conf)):
            (directory / file).write_bytes(content)
        return place

    def _discard(self, keys: Sequence[str]) -> None:
        """Remove what is left of these snapshots, the last one first."""
        for key in reversed(keys):
            with contextlib.suppress(NotFound, Conflict):
                self._snapshots.remove(key)

    async def _sandbox(self, place_id: str, mode: str) -> Sandbox:
        endpoints = []
        if mode not in ("host", "none"):
            network = "bridge" if mode in ("default", "") else mode
            endpoints = [EndpointConfig(network=network)]
        return await self._networks.prepare(
            SandboxRequest(
                container_id=place_id,
                container_name=f"build-{place_id[:12]}",
                hostname=self._settings.hostname,
                mode="host" if mode == "host" else "endpoints",
                endpoints=endpoints,
                extra_hosts=list(self._settings.extra_hosts),
            )
        )

    def _spec(self, job: Job, place: _Place) -> dict[str, Any]:
        op, settings = job.op, self._settings
        spec = default_spec(
            args=op.args,
            env=[*job.hidden_env, *op.env, *job.env],
            cwd=op.cwd or "/",
            user=op.user,
            hostname=settings.hostname,
            cgroups_path=settings.groups.path(job.container_id, settings.cgroup_parent),
            network=op.network != "host",
            shm_size=settings.shm_size,
        )
        if place.netns is not None:
            path = f"/proc/{os.getpid()}/fd/{place.netns}"
            for namespace in spec["linux"]["namespaces"]:
                if namespace["type"] == "network":
                    namespace["path"] = path
        if settings.apparmor:
            spec["process"]["apparmorProfile"] = settings.apparmor
        if op.security == "insecure":
            make_privileged(spec)
        if settings.no_new_privileges:
            spec["process"]["noNewPrivileges"] = True
        if not settings.seccomp:
            spec["linux"].pop("seccomp", None)
        if not settings.system_paths_masked:
            spec["linux"].update(maskedPaths=[], readonlyPaths=[])
        if settings.rlimits:
            spec["process"]["rlimits"] = [dict(limit) for limit in settings.rlimits]
        if settings.resources:
            spec["linux"].setdefault("resources", {}).update(settings.resources)
        for file in ("hosts", "resolv.conf"):
            spec["mounts"].append(bind(place.directory / file, f"/etc/{file}"))
        for number, (path, text) in enumerate(op.files):
            script = place.directory / f"script-{number}"
            script.write_text(text)
            script.chmod(0o755)
            spec["mounts"].append(bind(script, path, "ro"))
        spec["mounts"].extend(job.mounts)
        return spec

    async def _execute(self, job: Job, request: KeeperRequest, key: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        exited: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()

        def on_event(event: KeeperEvent) -> None:
            if isinstance(event, Exited) and not exited.done():
                exited.set_result(event)

        tail = bytearray()

        def on_output(stream: Stream, data: bytes) -> None:
            tail.extend(data[-_TAIL:])
            del tail[:-_TAIL]
            job.on_output(stream, data)

        try:
            try:
                keeper = await self._spawner.spawn(
                    request, attach_fds=[theirs.fileno()], on_event=on_event, brief=True
                )
            except StartError as error:
                raise StepError(
                    f"{job.step}: {error}", exit_code=error.exit_code, step=job.step
                ) from None
            finally:
                theirs.close()
            if job.coming.commands:
                self._spawner.fork_ahead(brief=True)  # for the next one, while this one runs
            job.on_start(job.container_id)
            try:
                self._prepare_ahead(job, key)
                await read_frames(ours, on_output)
                await keeper.wait_closed()
            except asyncio.CancelledError:
                await asyncio.shield(_kill(keeper))
                raise
        finally:
            ours.close()
        if not exited.done():
            raise SampanError(f"the container of the step {job.step!r} was lost")
        code = exited.result().code
        if code != 0:
            killed = (
                " (the kernel killed it for want of memory)" if exited.result().oom_killed else ""
            )
            raise StepError(
                f"The command '{' '.join(job.op.args)}' returned a non-zero code: {code}{killed}",
                exit_code=code,
                step=job.step,
                output=tail.decode(errors="replace"),
            )


async def _namespace(interfaces: Sequence[Interface]) -> int:
    making = asyncio.create_task(asyncio.to_thread(make_namespace, interfaces))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        os.close(await making)
        raise


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two states of a directory are of the same owner and mode."""
    fields = ("st_mode", "st_uid", "st_gid")
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def new_container_id() -> str:
    return secrets.token_hex(32)


async def _kill(keeper: Keeper) -> None:
    try:
        await keeper.signal(signal.SIGKILL)
        await keeper.wait_closed()
    except KeeperGone:
        pass
