"""What changes a container's state: start, stop, kill, pause, update, remove, and its keeper's news.

A keeper's events arrive on the event loop in order.  An exit is worked on under the container's
lock, so that it never overtakes the start that it belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from sampan.engine import links, resources, revival, validate
from sampan.engine.attachments import Attachments
from sampan.engine.containers import Containers
from sampan.engine.execs import Execs
from sampan.engine.launch import Launcher, Places
from sampan.engine.state import Container, State, now
from sampan.engine.types import HostConfig
from sampan.errors import Conflict, InvalidParameter, NotFound, NotModified, SampanError
from sampan.runtime.control import Keeper, read_state
from sampan.runtime.errors import KeeperGone, StartError
from sampan.runtime.types import (
    ContainerState,
    Detached,
    ExecExited,
    Exited,
    Health,
    KeeperEvent,
    OutOfMemory,
    Paused,
    Restarting,
    Started,
    Unpaused,
)
from sampan.store.snapshots import Snapshotter

log = logging.getLogger("sampan.engine")

KILL_SECONDS = 10.0
"""How long a killed container may take to end before that is an error."""


class Lifecycle:
    """The state machine of containers."""

    def __init__(
        self,
        containers: Containers,
        execs: Execs,
        launcher: Launcher,
        volumes: Attachments,
        snapshotter: Snapshotter,
        places: Places,
        stop_timeout: int = 10,
    ) -> None:
        self._containers = containers
        self._execs = execs
        self._launcher = launcher
        self._volumes = volumes
        self._snapshotter = snapshotter
        self._places = places
        self._stop_timeout = stop_timeout
        self._tasks: set[asyncio.Task[None]] = set()

    # -- start and stop --------------------------------------------------------------------

    async def start(self, container: Container) -> None:
        """Start a container.

        Raises NotModified (it runs already), StartError, Conflict, NotFound.  A failed start
        leaves nothing behind but the error in the record.
        """
        async with container.lock:
            state = container.record.state
            if state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.running:
                raise NotModified("the container is running already")
            if state.status in ("removing", "dead"):
                raise Conflict("container is marked for removal and cannot be started")
            await self._start(container)

    async def _start(self, container: Container) -> None:
        state = container.record.state
        if container.parked:
            self._containers.publish(container.record, "attach")
        early: list[KeeperEvent] = []

        def news(event: KeeperEvent) -> None:
            if container.keeper is None:
                # Its first end may be told before its start is known here.
                early.append(event)
            else:
                self._on_event(container, event)

        try:
            keeper = await self._launcher.launch(container, news)
        except Exception as error:
            # Only the command's own fault has a code of its own.
            code = error.exit_code if isinstance(error, StartError) else 0
            state.exit_code = code if code in (126, 127) else 128
            state.error = str(error)
            self._containers.save(container)
            if container.record.host.auto_remove:
                await self._remove(container, volumes=True)
            raise
        container.keeper = keeper
        state.status = "running"
        state.pid = keeper.pid
        state.started_at = now()
        state.exit_code = 0
        state.error = ""
        state.oom_killed = False
        state.manually_stopped = False
        state.restart_count = 0
        state.health = Health("starting", 0, []) if self._has_probe(container) else None
        self._containers.save(container)
        self._containers.publish(container.record, "start")
        for event in early:
            self._on_event(container, event)
        self._launcher.links_changed(links.linking(container, self._containers.all()))

    async def stop(
        self, container: Container, seconds: int | None = None, stop_signal: str = ""
    ) -> None:
        """Ask the process to end, and kill it after ``seconds`` (negative: never).

        Raises NotModified when it does not run.
        """
        if not container.running:
            raise NotModified("the container does not run")
        config = container.record.config
        number = validate.signal_number(stop_signal or config.stop_signal or "TERM")
        if seconds is None:
            seconds = config.stop_timeout if config.stop_timeout is not None else self._stop_timeout
        await self._end(container, number, seconds)
        self._containers.publish(container.record, "stop")

    async def _end(self, container: Container, number: int, seconds: int) -> None:
        """Signal, wait, kill, wait."""
        gone = container.next_exit()
        try:
            await self._signal(container, number, final=True)
            self._containers.publish(container.record, "kill", signal=str(number))
            if seconds < 0:
                await asyncio.shield(gone)
                return
            if number != signal.SIGKILL:
                done, _ = await asyncio.wait({gone}, timeout=seconds)
                if done:
                    return
                await self._signal(container, signal.SIGKILL, final=True)
                self._containers.publish(container.record, "kill", signal="9")
            done, _ = await asyncio.wait({gone}, timeout=KILL_SECONDS)
            if not done:
                raise SampanError(
                    f"container {container.id} did not end within {KILL_SECONDS:.0f} s of SIGKILL: "
                    "one of its processes is stuck in the kernel"
                )
        except KeeperGone:
            await self._until_stopped(container)
        finally:
            gone.cancel()

    async def _until_stopped(self, container: Container) -> None:
        while container.running:
            await container.next_exit()

    async def _signal(self, container: Container, number: int, *, final: bool) -> None:
        """Send a signal; with ``final`` the restart policy does not apply to the end any more."""
        keeper = container.live_keeper()
        if final:
            container.record.state.manually_stopped = True
            await keeper.set_restart("no")
        await keeper.signal(number)
        if container.record.state.status == "paused" and final:
            # A frozen process gets no signal before it is thawed.
            await keeper.resume()

    async def kill(self, container: Container, text: str = "") -> None:
        """Send a signal by name or number, SIGKILL by default.

        Raises Conflict when the container does not run, InvalidParameter.
        """
        number = validate.signal_number(text or "KILL")
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        own = validate.signal_number(container.record.config.stop_signal or "TERM")
        gone = container.next_exit() if number == signal.SIGKILL else None
        await self._signal(container, number, final=number in (own, signal.SIGKILL))
        self._containers.publish(container.record, "kill", signal=str(number))
        if gone is not None:
            await asyncio.wait({gone}, timeout=KILL_SECONDS)

    async def restart(
        self, container: Container, seconds: int | None = None, stop_signal: str = ""
    ) -> None:
        """Stop if it runs, then start."""
        if container.running:
            # The end that belongs to a restart must not remove the container.
            auto_remove = container.record.host.auto_remove
            self._set_host(container, auto_remove=False)
            try:
                await self.stop(container, seconds, stop_signal)
            except NotModified:
                pass
            finally:
                self._set_host(container, auto_remove=auto_remove)
        await self.start(container)
        self._containers.publish(container.record, "restart")

    async def pause(self, container: Container) -> None:
        """Freeze all processes.  Raises Conflict when it does not run, or is paused."""
        async with container.lock:
            status = container.record.state.status
            if status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            if status == "restarting":
                raise Conflict(
                    f"Container {container.id} is restarting, wait until the container is running"
                )
            if status != "running":
                raise Conflict(f"container {container.id} is not running")
            await container.live_keeper().pause()
            self._paused(container, True)

    async def unpause(self, container: Container) -> None:
        """Let all processes go on.  Raises Conflict when it is not paused."""
        async with container.lock:
            if container.record.state.status != "paused":
                raise Conflict(f"Container {container.id} is not paused")
            await container.live_keeper().resume()
            self._paused(container, False)

    def _paused(self, container: Container, paused: bool) -> None:
        before = container.record.state.status
        wanted = "paused" if paused else "running"
        if before not in ("running", "paused") or before == wanted:
            return
        container.record.state.status = "paused" if paused else "running"
        self._containers.save(container)
        self._containers.publish(container.record, "pause" if paused else "unpause")

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name, for its networks too.  Raises Conflict."""
        old = container.name
        self._containers.rename(container, name)
        for other in self._containers.all():
            if other.record.host.links:
                other.record.host = links.follow(old, container.name, other.record.host)
                self._containers.save(other)
        if container.running:
            self._launcher.renamed(container)

    async def resize(self, container: Container, rows: int, columns: int) -> None:
        """Set the terminal's window size.  Raises Conflict when it does not run."""
        await container.live_keeper().resize(rows, columns)
        self._containers.publish(container.record, "resize", height=str(rows), width=str(columns))

    async def update(self, container: Container, changes: dict[str, Any]) -> list[str]:
        """Change limits and the restart policy; ``changes`` are fields of HostConfig that are set.

        Raises InvalidParameter for limits that cannot be, Conflict for an auto-removed container.
        """
        async with container.lock:
            host = _updated(container.record.host, changes)
            if host.auto_remove and host.restart_policy.name not in ("", "no"):
                raise Conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the "
                    "container"
                )
            validate.check(container.record.config, host)
            if container.keeper is not None:
                await container.keeper.update(resources.to_spec(host))
                if "restart_policy" in changes:
                    policy = host.restart_policy
                    await container.keeper.set_restart(
                        policy.name or "no", policy.maximum_retry_count
                    )
            container.record.host = host
            self._containers.save(container)
        self._containers.publish(container.record, "update")
        return []

    # -- remove ----------------------------------------------------------------------------

    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None:
        """Remove a container; with ``volumes`` its anonymous volumes too.

        Raises NotFound, Conflict (it runs and ``force`` is not given).
        """
        if link:
            self._remove_link(ref)
            return
        container = self._containers.get(ref)
        while True:
            if container.record.state.status == "removing":
                raise Conflict(f"removal of container {container.id} is already in progress")
            if container.running:
                if not force:
                    raise Conflict(_still(container))
                await self._end(container, signal.SIGKILL, 0)
            async with container.lock:
                if container.removed.is_set():
                    # --rm was faster.
                    return
                if not container.running:
                    await self._remove(container, volumes=volumes)
                    return
                # It was started while we waited for the lock.

    def _remove_link(self, ref: str) -> None:
        """Remove the link ``container/alias``."""
        parent, separator, alias = ref.strip("/").partition("/")
        if not separator:
            raise InvalidParameter(f"invalid link {ref!r}: it is /CONTAINER/ALIAS")
        container = self._containers.get(parent)
        container.record.host = links.without(container.record.host, alias)
        self._containers.save(container)
        if container.running:
            self._launcher.links_changed([container])

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        """Take away all there is of a container that does not run; its lock is held."""
        before = container.record.state.status
        container.record.state.status = "removing"
        container.drop_parked()
        try:
            # The record first: what a crash leaves of the rest belongs to nobody.
            self._containers.erase(container)
        except BaseException:
            container.record.state.status = before
            raise
        delete = self._release_snapshot(container.id)
        mounts = container.record.mounts
        self._execs.forget(container.id)
        self._containers.forget(container)
        container.announce_exit()
        try:
            if volumes:
                await self._volumes.discard(mounts)
        finally:
            # Whoever waits for the container's removal need not wait for the disk.
            await asyncio.to_thread(self._delete_files, container.id, delete)

    def _release_snapshot(self, container_id: str) -> Callable[[], None] | None:
        try:
            return self._snapshotter.release(container_id)
        except NotFound:
            return None

    def _delete_files(self, container_id: str, delete: Callable[[], None] | None) -> None:
        if delete:
            delete()
        shutil.rmtree(self._places.run_of(container_id), ignore_errors=True)
        shutil.rmtree(self._places.state_of(container_id), ignore_errors=True)

    # -- news from keepers -----------------------------------------------------------------

    def _on_event(self, container: Container, event: KeeperEvent) -> None:
        state = container.record.state
        match event:
            case Exited():
                self._spawn_task(self._exited(container, event))
            case Restarting():
                state.status = "restarting"
                state.exit_code = event.code
                state.finished_at = event.at
                state.restart_count = event.count
                state.pid = 0
                state.health = _unwatched(state.health)
                ran = max(0, event.at - state.started_at) // 10**9
                self._containers.publish(
                    container.record, "die", exitCode=str(event.code), execDuration=str(ran)
                )
                container.announce_exit()
            case Started():
                if state.status == "restarting":
                    state.status = "running"
                    state.started_at = event.at
                    state.exit_code = 0
                    self._containers.publish(container.record, "start")
                state.pid = event.pid
            case ExecExited() | Detached():
                self._execs.on_event(container, event)
            case OutOfMemory():
                state.oom_killed = True
                self._containers.publish(container.record, "oom")
            case Health():
                changed = state.health is None or state.health.status != event.status
                state.health = event
                if changed and event.status != "starting":
                    self._containers.publish(container.record, f"health_status: {event.status}")
            case Paused() | Unpaused():
                self._paused(container, isinstance(event, Paused))
            case _:
                log.debug("container %s: %s", container.id, event)

    async def _exited(self, container: Container, event: Exited) -> None:
        async with container.lock:
            if not container.running:
                return
            state = container.record.state
            if container.keeper is not None:
                container.keeper.close()
                container.keeper = None
            await self._launcher.clean(container)
            state.status = "exited"
            state.pid = 0
            state.exit_code = event.code
            state.finished_at = event.at
            state.health = _unwatched(state.health)
            state.error = event.error
            state.oom_killed = state.oom_killed or event.oom_killed
            self._execs.container_ended(container)
            ran = max(0, event.at - state.started_at) // 10**9
            self._containers.publish(
                container.record, "die", exitCode=str(event.code), execDuration=str(ran)
            )
            if container.record.host.auto_remove:
                container.announce_exit()
                await self._remove(container, volumes=True)
                return
            self._containers.save(container)
            container.announce_exit()
            stopped = state.manually_stopped
        if event.lost and not stopped and revival.wanted(container.record):
            self._spawn_task(self._start_again(container, []))

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("handling a container's end failed", exc_info=task.exception())

    # -- after a restart of the daemon -----------------------------------------------------

    async def reconnect(self) -> list[Container]:
        """Find the keepers of the containers that ran; return those that still run.

        Call before the networks are restored; then :meth:`settle` works on those that ended.
        """
        believed = [container for container in self._containers.all() if container.running]
        found = await asyncio.gather(*(self._reconnect(container) for container in believed))
        return [c for c, runs in zip(believed, found, strict=True) if runs]

    async def _reconnect(self, container: Container) -> bool:
        run_dir = self._places.run_of(container.id)
        try:
            keeper = await Keeper.connect(
                run_dir, on_event=lambda event: self._on_event(container, event)
            )
        except (KeeperGone, OSError):
            return False
        state, theirs = container.record.state, keeper.state
        container.keeper = keeper
        if theirs.status not in ("exited", "created"):
            state.status = theirs.status
        state.pid = theirs.pid
        _learn(state, theirs)
        return True

    async def settle(self, alive: list[Container]) -> None:
        """Record the ends that happened meanwhile, clean up, and begin to start what is to be
        started."""
        self._sweep()
        running = {container.id for container in alive}
        for container in self._containers.all():
            if container.id in running:
                continue
            if container.running:
                last = read_state(self._places.run_of(container.id))
                if last is not None and last.status == "exited":
                    ended = Exited(last.exit_code, last.finished_at, last.oom_killed, last.error)
                    _learn(container.record.state, last)
                else:
                    ended = Exited(255, now(), False, "the host or the keeper went down")
                await self._exited(container, ended)
            elif container.record.state.status == "removing" or (
                container.record.host.auto_remove and container.record.state.finished_at
            ):
                async with container.lock:
                    await self._remove(container, volumes=True)
        begun: dict[str, asyncio.Task[None]] = {}
        ended_ones = [c for c in reversed(self._containers.all()) if revival.wanted(c.record)]
        for container in ended_ones:
            needed = [begun[c.id] for c in revival.needed(container, ended_ones)]
            begun[container.id] = self._spawn_task(self._start_again(container, needed))

    def _sweep(self) -> None:
        """Delete what a crash left of containers without a record."""
        known = {container.id for container in self._containers.all()}
        for key in self._snapshotter.active():
            if key not in known:
                self._snapshotter.remove(key)
        for place in (self._places.run_of(""), self._places.state_of("")):
            for path in place.iterdir() if place.is_dir() else ():
                if path.name not in known:
                    shutil.rmtree(path, ignore_errors=True)

    async def _start_again(self, container: Container, needed: list[asyncio.Task[None]]) -> None:
        if needed:
            await asyncio.wait(needed)
        try:
            await self.start(container)
        except SampanError as error:
            log.warning("container %s could not be restarted: %s", container.id, error)

    async def close(self) -> None:
        """Finish what is being worked on; containers go on."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for container in self._containers.all():
            if container.keeper is not None:
                container.keeper.close()

    # -- small things ----------------------------------------------------------------------

    def _has_probe(self, container: Container) -> bool:
        check = container.record.config.healthcheck
        return check is not None and bool(check.test) and check.test != ["NONE"]

    def _set_host(self, container: Container, **changes: Any) -> None:
        container.record.host = msgspec.structs.replace(container.record.host, **changes)


def _updated(host: HostConfig, changes: dict[str, Any]) -> HostConfig:
    """The host configuration with these changes; each kind of CPU limit replaces the other."""
    if changes.get("nano_cpus"):
        if changes.get("cpu_quota") or changes.get("cpu_period"):
            raise InvalidParameter(
                "Conflicting options: Nano CPUs and CPU Period cannot both be set."
            )
        changes = {**changes, "cpu_quota": 0, "cpu_period": 0}
    elif changes.get("cpu_quota") or changes.get("cpu_period"):
        changes = {**changes, "nano_cpus": 0}
    memory = changes.get("memory")
    if memory and "memory_swap" not in changes:
        if 0 < host.memory_swap < memory:
            raise Conflict(
                "Memory limit should be smaller than already set memoryswap limit, update the "
                "memoryswap at the same time"
            )
        if not host.memory_swap:
            changes = {**changes, "memory_swap": memory * 2}
    return msgspec.structs.replace(host, **changes)


def _learn(state: State, theirs: ContainerState) -> None:
    """What a keeper has recorded of starts of its own and of probes."""
    state.started_at = theirs.started_at or state.started_at
    state.restart_count = theirs.restart_count
    state.oom_killed = theirs.oom_killed
    state.health = theirs.health or state.health


def _unwatched(health: Health | None) -> Health | None:
    """The health of a container that has ended: nobody looks after it, which is not healthy."""
    return msgspec.structs.replace(health, status="unhealthy") if health else None


def _still(container: Container) -> str:
    """Why a container that runs is not removed."""
    status = container.record.state.status
    what = "unpause and stop the container" if status == "paused" else "stop the container"
    return (
        f'cannot remove container "/{container.name}": container is {status}: '
        f"{what} before removing or force remove"
    )
