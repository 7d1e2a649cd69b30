"""The first process of a container: its life, its end, and what follows from that.

When it has ended and its output has been read, the container's control group and services go.
Then it is either started again, after a delay (:mod:`sampan.runtime.restarts`), or the container
is over: that is recorded and told when the log is complete.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from signal import SIGKILL

import msgspec

from sampan.runtime import cgroups, health, starter
from sampan.runtime.connection import Connections
from sampan.runtime.errors import StartError
from sampan.runtime.external import end as external
from sampan.runtime.loop import IN, PRI, Loop, Timer
from sampan.runtime.outlet import Outlet
from sampan.runtime.record import Record
from sampan.runtime.restarts import Restarts
from sampan.runtime.services import Services
from sampan.runtime.starter import Result
from sampan.runtime.starts import Outcome, Start, Starts
from sampan.runtime.task import Task
from sampan.runtime.types import (
    Detached,
    Exited,
    Health,
    OutOfMemory,
    Restarting,
    RestartPolicy,
    Started,
)
from sampan.runtime.unfinished import Unfinished


class FirstProcess:
    """One container's first process, over all of its starts."""

    def __init__(
        self,
        loop: Loop,
        record: Record,
        connections: Connections,
        services: Services,
        starts: Starts,
        unfinished: Unfinished,
        outlet: Outlet,
        start_probe: health.StartProbe,
    ) -> None:
        self.task: Task | None = None
        """None while none runs."""
        self._loop = loop
        self._record = record
        self._connections = connections
        self._services = services
        self._starts = starts
        self._unfinished = unfinished
        self._outlet = outlet
        self._start_probe = start_probe
        self._restarts: Restarts | None = None
        self._again: Timer | None = None
        """Set while it waits for its next start."""
        self._start: Start | None = None
        """The start that is in progress."""
        self._postponed: list[Callable[[], None]] = []
        self._monitor: health.Monitor | None = None
        self._oom: cgroups.OomWatch | None = None

    # --- its starts -------------------------------------------------------------------------

    def early_services(self, network: int, message: bytes, held: list[int]) -> None:
        """Start the services: the network exists, the program does not run yet.  On the first
        start the request and the descriptors to be held come before everything else."""
        if message:
            self._record.know(message)
            self._services.held = held
        self._services.start(self._record.request.services, network)

    def take(
        self,
        result: Result,
        policy: RestartPolicy,
        clients: list[int],
        attached: bool,
        checked: bool,
    ) -> None:
        """Take over the process of the first start."""
        self._restarts = Restarts(policy)
        self._adopt(result, clients, attached, checked)

    def _adopt(self, result: Result, clients: list[int], attached: bool, checked: bool) -> None:
        """Take over a started process, with its clients and its health check."""
        task = Task.of(
            result.process,
            self._loop,
            self._outlet.write,
            once=self._record.stdin_once,
            on_detach=self._detached,
            behind=self._outlet.sink,
        )
        self._outlet.feeds(task.stdio)
        self.task = task
        self._loop.add(task.pidfd, IN, self._ended)
        self._unfinished.begin()
        if attached:
            for attach, fd in zip(self._record.request.attaches, clients, strict=False):
                task.stdio.attach(attach, fd)
        if result.oom is not None:
            self._oom = cgroups.adopt_watch(result.oom)
            self._loop.add(self._oom.fd, PRI if self._oom.urgent else IN, self._oom_event)
        if checked and self._record.request.healthcheck:
            self._record.state.health = Health("starting", 0, [])
            self._monitor = health.Monitor(
                self._loop, self._record.request.healthcheck, self._start_probe, self._report_health
            )

    def _start_again(self) -> None:
        self._again = None
        message = self._record.message()

        def work(sock: socket.socket) -> None:
            starter.again(sock, message)

        try:
            self._start = self._starts.begin(
                work, self._started_again, on_services=self.early_services
            )
        except StartError as failure:
            self._not_started(failure)

    def _started_again(self, outcome: Outcome) -> None:
        start, self._start = self._start, None
        assert start is not None
        if isinstance(outcome, StartError):
            self._not_started(outcome, given_up=start.given_up)
        else:
            state = self._record.state
            state.warnings = outcome.process.warnings
            state.status = "running"
            state.pid = outcome.process.pid
            state.started_at = time.time_ns()
            state.oom_killed = False
            self._adopt(outcome, [], False, True)
            self._record.write()
            self._connections.emit(Started(state.pid, state.started_at, state))
        postponed, self._postponed = self._postponed, []
        for call in postponed:
            call()

    def _not_started(self, failure: StartError, *, given_up: bool = False) -> None:
        self._services.stop()
        try:
            # It is gone already unless the starter was killed.
            self._record.group.delete()
        except OSError:
            pass  # why it did not start is what is to be told
        if given_up:
            self._conclude("")
            return
        self._record.state.exit_code = failure.exit_code
        self._record.state.finished_at = time.time_ns()
        self._conclude(str(failure))

    def postponed(self, call: Callable[[], None]) -> bool:
        """Whether it is being started again; if so, the call is made when that is over."""
        if self._start is None:
            return False
        self._postponed.append(call)
        return True

    def set_restart(self, name: str, count: int) -> None:
        """Change the policy; ``no`` ends a container that is between an end and a start."""
        assert self._restarts is not None
        self._restarts.policy = msgspec.convert(
            {"name": name, "maximum_retry_count": count}, RestartPolicy
        )
        if name != "no":
            return
        if self._again:
            self._again.cancel()
            self._again = None
            self._conclude("")
        elif self._start:
            self._starts.give_up(self._start)

    # --- while it runs ----------------------------------------------------------------------

    def signal(self, number: int, everyone: bool) -> None:
        """Raises ProcessLookupError when it does not run."""
        group = self._record.running_group
        if number == SIGKILL:
            group.hasten()
        if everyone:
            for pid in group.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        elif self.task is None:
            raise ProcessLookupError
        elif self._record.external:
            external.kill(self._record.runtime, self._record.id, number)
        else:
            self.task.signal(number)

    def _detached(self) -> None:
        self._connections.emit(Detached("", time.time_ns()))

    def _oom_event(self, _: int) -> None:
        watch = self._oom
        if watch and watch.read() and (watch.certain or self._record.group.oom_kills()):
            self._record.state.oom_killed = True
            self._connections.emit(OutOfMemory(time.time_ns()))

    def _report_health(self, state: Health) -> None:
        self._record.state.health = state
        self._record.write()
        self._connections.emit(state)

    # --- its end ----------------------------------------------------------------------------

    def _ended(self, _: int) -> None:
        task = self.task
        assert task is not None
        self._loop.remove(task.pidfd)
        code = task.reap()
        task.stdio.process_ended(lambda: self._exited(code), self._unfinished.end)

    def _exited(self, code: int) -> None:
        """It is gone and all of its output has been read."""
        group, state, restarts = self._record.group, self._record.state, self._restarts
        assert restarts is not None
        if not state.oom_killed and group.oom_kills():
            # The notice of it is still on its way.
            state.oom_killed = True
            self._connections.emit(OutOfMemory(time.time_ns()))
        state.exit_code = code
        state.finished_at = time.time_ns()
        state.pid = 0
        self.task = None
        if self._monitor:
            self._monitor.stop()
            self._monitor = None
        if self._oom:
            self._loop.remove(self._oom.fd)
            self._oom.close()
            self._oom = None
        # A process that enters now, by a namespace of others, is killed with the group or by its
        # starter.
        self._starts.give_all_up()
        self._services.stop()
        error = ""
        if self._record.external:
            error = external.delete(self._record.runtime, self._record.id)
        try:
            group.delete()
        except OSError as failure:
            error = f"the control group was left behind: {failure}"
        delay = restarts.next_delay(code, state.finished_at - state.started_at)
        if delay is None:
            self._conclude(error)
            return
        state.status = "restarting"
        state.restart_count = restarts.count
        self._record.write()
        self._connections.emit(
            Restarting(code, state.finished_at, restarts.count, delay, state.oom_killed)
        )
        self._again = self._loop.call_later(delay / 1e9, self._start_again)

    def _conclude(self, error: str) -> None:
        """It is over: record and tell that when its output is delivered."""
        self._record.state.error = error
        self._outlet.close(self._tell_end)

    def _tell_end(self) -> None:
        state = self._record.state
        state.status = "exited"
        self._services.let_go()
        self._record.write()
        self._connections.emit(
            Exited(state.exit_code, state.finished_at, state.oom_killed, state.error)
        )
        self._unfinished.close()
