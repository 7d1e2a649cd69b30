"""Further processes of a container: execs, and the probes of its health.

One is *starting* until its starter has told the outcome (:mod:`sampan.runtime.starts`), and a task
from then on until it has ended.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from sampan.runtime import health, starter
from sampan.runtime.connection import Connections
from sampan.runtime.errors import StartError
from sampan.runtime.first import FirstProcess
from sampan.runtime.loop import IN, Loop
from sampan.runtime.record import Record
from sampan.runtime.starts import OnOutcome, Outcome, Start, Starts
from sampan.runtime.task import Task
from sampan.runtime.types import Detached, ExecExited, ExecRequest
from sampan.runtime.unfinished import Unfinished

OnStarted = Callable[[int | StartError], None]
"""Called with the process number, or why it could not be started."""
OnCode = Callable[[int], None]


class Execs:
    """The further processes of one container."""

    def __init__(
        self,
        loop: Loop,
        record: Record,
        connections: Connections,
        starts: Starts,
        unfinished: Unfinished,
        first: FirstProcess,
        on_end: Callable[[], None],
        further: starter.Further,
    ) -> None:
        """``on_end`` is called when an exec has ended, or has not been started after all;
        ``further`` is what starters do."""
        self._loop = loop
        self._record = record
        self._connections = connections
        self._starts = starts
        self._unfinished = unfinished
        self._first = first
        self._on_end = on_end
        self._further = further
        self._tasks: dict[str, Task] = {}
        self._starting: dict[str, list[Callable[[], None]]] = {}
        """What waits for the outcome, by the exec's id."""

    def find(self, exec_id: str) -> Task | None:
        return self._tasks.get(exec_id)

    def pids(self) -> dict[str, int]:
        return {name: task.pid for name, task in self._tasks.items()}

    def postponed(self, exec_id: str, call: Callable[[], None]) -> bool:
        """Whether the exec is being started; if so, the call is made when that is over."""
        waiting = self._starting.get(exec_id)
        if waiting is None:
            return False
        waiting.append(call)
        return True

    def start(self, request: ExecRequest, clients: Sequence[int], on_started: OnStarted) -> None:
        """Start an exec with its clients, which are taken over.  Raises StartError."""

        def on_outcome(outcome: Outcome) -> None:
            waiting = self._starting.pop(request.id)
            if isinstance(outcome, StartError):
                _close_all(clients)
                self._on_end()
                on_started(outcome)
            else:
                task = Task.of(outcome.process, self._loop, _no_log, once=True, on_detach=detached)
                self._tasks[request.id] = task
                self._watch(start, task, on_ended, on_drained)
                for attach, fd in zip(request.attaches, clients, strict=True):
                    task.stdio.attach(attach, fd)
                on_started(task.pid)
            for call in waiting:
                call()

        def detached() -> None:
            self._connections.emit(Detached(request.id, time.time_ns()))

        def on_ended(_: int) -> None:
            del self._tasks[request.id]
            self._on_end()

        def on_drained(code: int) -> None:
            self._connections.emit(ExecExited(request.id, code, time.time_ns()))

        try:
            self._check(request, clients)
            start = self._begin(request, on_outcome)
        except BaseException:
            _close_all(clients)
            raise
        self._starting[request.id] = []

    def probe(self, process: dict[str, Any], on_end: health.OnEnd) -> health.Probe:
        """Start a probe of the container's health.  Raises StartError."""
        output = bytearray()

        def collect(_stream: int, data: bytes, _time: int) -> None:
            if len(output) <= health.MAX_OUTPUT:  # one more byte tells that there is more
                output.extend(data)

        def on_outcome(outcome: Outcome) -> None:
            if isinstance(outcome, StartError):
                on_end(outcome.exit_code, str(outcome).encode())
                return
            task = Task.of(outcome.process, self._loop, collect, once=True, on_detach=lambda: None)
            probe.task = task
            self._watch(start, task, lambda _: None, lambda code: on_end(code, bytes(output)))

        start = self._begin(ExecRequest("", process), on_outcome)
        probe = _Probe(self._starts, start)
        return probe

    def _check(self, request: ExecRequest, clients: Sequence[int]) -> None:
        if self._record.state.status == "paused":
            text = f"container {self._record.id} is paused, unpause it before exec"
            raise StartError(text, 126)
        known = request.id in self._tasks or request.id in self._starting
        if known or len(clients) != len(request.attaches):
            raise StartError("an exec needs one connection for each attach, and a new id", 126)

    def _begin(self, request: ExecRequest, on_outcome: OnOutcome) -> Start:
        """Begin to start a process.  Raises StartError."""
        first = self._first.task
        if first is None or self._record.state.status != "running":
            raise self._not_running()
        message = self._record.message()

        def work(sock: socket.socket) -> None:
            self._further(sock, request, message, first.pid, first.pidfd)

        def told(outcome: Outcome) -> None:
            if isinstance(outcome, StartError) and self._first.task is not first:
                outcome = self._not_running()
            on_outcome(outcome)

        return self._starts.begin(work, told, needed=(first.pidfd,))

    def _not_running(self) -> StartError:
        return StartError(f"container {self._record.id} is not running", 126)

    def _watch(self, start: Start, task: Task, on_ended: OnCode, on_drained: OnCode) -> None:
        """Call back with the exit code of a started process when it has ended, and when all of
        its output has been read."""
        self._unfinished.begin()

        def ended(_: int) -> None:
            self._loop.remove(task.pidfd)
            code = task.reap()
            on_ended(code)
            task.stdio.process_ended(lambda: on_drained(code), self._unfinished.end)

        self._loop.add(task.pidfd, IN, ended)
        if start.given_up:
            # It ran already when that was decided.
            task.kill()


class _Probe:
    """A probe that is starting, or runs as ``task``."""

    def __init__(self, starts: Starts, start: Start) -> None:
        self.task: Task | None = None
        self._starts = starts
        self._start = start

    def kill(self) -> None:
        if self.task:
            self.task.kill()
        else:
            self._starts.give_up(self._start)


def _no_log(_stream: int, _data: bytes, _time: int) -> None:
    """Nothing keeps what an exec writes."""


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
