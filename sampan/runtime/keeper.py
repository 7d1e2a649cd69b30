"""The keeper process: parent of one container from its start to its end.

Forked from the spawner, it has the container's processes started by starters
(:mod:`sampan.runtime.starter`), owns their streams, log, control group, held descriptors and
services, serves control connections (the daemon's, one daemon after another), and ends when the
container has ended and every client has its output.  One thread, one event loop, nothing that
blocks for long.  What it does not need at once it decodes when it is asked for: it lives as long
as its container, and every page that it touches is a page of its own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.linux import memfd, namespaces, process, pty
from sampan.runtime import (
    ahead,
    cgroups,
    compact,
    health,
    launch,
    model,
    parcel,
    protocol,
    sample,
    starter,
)
from sampan.runtime.connection import Connection
from sampan.runtime.errors import StartError
from sampan.runtime.external import end as external
from sampan.runtime.external.command import Runtime
from sampan.runtime.interfaces import Interface
from sampan.runtime.logs.writer import Writer, open_writer
from sampan.runtime.loop import IN, PRI, Loop, Timer
from sampan.runtime.restarts import Restarts
from sampan.runtime.services import find_service
from sampan.runtime.starter import Starter
from sampan.runtime.stdio import Backlog, Stdio
from sampan.runtime.task import Task
from sampan.runtime.types import (
    ContainerState,
    Detached,
    ExecExited,
    ExecRequest,
    Exited,
    Health,
    KeeperEvent,
    KeeperRequest,
    LogConfig,
    OutOfMemory,
    Paused,
    Restarting,
    RestartPolicy,
    ServiceRequest,
    Started,
    Unpaused,
)

if TYPE_CHECKING:
    from sampan.runtime.logs.sink import Sink

_state_decoder = msgspec.msgpack.Decoder(ContainerState)


def main(requests: int, brief: bool) -> None:
    """Run a keeper in the calling (forked) process; returns when the container has ended.

    Its request comes over the socket ``requests``, a parcel with an encoded
    :class:`~sampan.runtime.types.KeeperRequest`, the first control connection, the held
    descriptors and the attached clients.  The starter and the container's first process are forked
    ahead of it.  A keeper that lives ``brief``ly does its starter's work itself: that costs it
    memory, and saves a process.
    """
    _settle()
    spare = launch.Spare(not brief, requests)
    if brief:
        _serve_briefly(requests, spare)
        return

    def work(sock: socket.socket) -> None:
        if sample.wanted():
            model.start(sock, requests, spare)
            return
        connection = socket.socket(fileno=requests)
        lesson = ahead.Lesson(ahead.Role.STARTER)
        received = parcel.Receiver(connection).receive()
        connection.close()
        if received is not None:
            starter.first(sock, *received, spare)
            lesson.end()

    serve(Starter(work), [requests, spare.sock.detach()], spare.pid)


def _serve_briefly(requests: int, spare: launch.Spare) -> None:
    connection = socket.socket(fileno=requests)
    ahead.fault_in(ahead.Role.STARTER)
    received = parcel.Receiver(connection).receive()
    connection.close()
    if received is None:
        spare.sock.close()
        _collect_spare(spare.pid)
        return
    keeper = Keeper()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    starter.first(far, *received, spare, keeper.early_services)
    far.close()
    _go_on(keeper, starter.Reported(near), spare.pid)


def serve(forked: Starter, unused: list[int], spare: int = 0) -> None:
    """Be the keeper of the container that a starter starts; ``unused`` is closed here.  ``spare``
    is the number of a child that the starter uses, or else lets go."""
    for fd in unused:
        os.close(fd)
    _go_on(Keeper(), forked, spare)


def _go_on(keeper: Keeper, forked: starter.Reported, spare: int) -> None:
    result = forked.result(keeper.early_services)
    if result is not None:
        keeper.run(result, forked, spare)
    elif spare:
        _collect_spare(spare)


def _collect_spare(pid: int) -> None:
    """Wait for the end of a spare that is no container's process."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # it has been collected where the start was given up


def _settle() -> None:
    os.setsid()
    # By the function below the one that makes enumerations of its arguments and results.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
    gc.enable()


class Keeper:
    """The state of one container while it runs."""

    def __init__(self) -> None:
        self._memory = -1
        """A memory file with the encoded request."""
        self._decoded: KeeperRequest | None = None
        self._state_message = b""
        self._decoded_state: ContainerState | None = None
        self._loop = Loop()
        self._connections: list[Connection] = []
        self._held: list[int] = []
        self._run_dir = -1
        self._listener: socket.socket | None = None
        self._log: Writer | None = None
        self._sink: Sink | None = None
        """In the log's place, if its driver is fed by a shipper."""
        self._services: list[_Service] = []
        self._task: Task | None = None
        self._execs: dict[str, Task] = {}
        self._stdin_once = False
        self._restarts: Restarts | None = None
        self._again: Timer | None = None
        self._monitor: health.Monitor | None = None
        self._over = False
        self._cgroup = ""
        self._trim: Timer | None = None
        self._oom: cgroups.OomWatch | None = None
        self._unfinished = 0
        self._id = ""
        self._external = False
        """Whether another runtime makes the processes."""
        self._starter: starter.Reported | None = None
        """The first start's, while it is to be collected."""

    @property
    def _request(self) -> KeeperRequest:
        if self._decoded is None:
            self._decoded = launch.request_decoder.decode(memfd.read_all(self._memory))
        return self._decoded

    @property
    def _state(self) -> ContainerState:
        if self._decoded_state is None:
            self._decoded_state = _state_decoder.decode(self._state_message)
        return self._decoded_state

    @property
    def _runtime(self) -> Runtime:
        return Runtime(self._request.runtime, self._request.run_dir)

    @property
    def _group(self) -> cgroups.Group:
        return cgroups.group(self._cgroup)

    # --- life -------------------------------------------------------------------------------

    def early_services(self, network: int, message: bytes, held: list[int]) -> None:
        """Start the services: the network exists, the program does not run yet."""
        if message:
            self._decoded, self._held = launch.request_decoder.decode(message), held
        self._start_services(network)

    def run(self, result: starter.Result, forked: starter.Reported, spare: int) -> None:
        """Serve the container, which ``forked`` has started, until its end."""
        process.set_name("sampan-keeper")
        if result.process.pid == spare:
            # It may end while its starter is still ending itself: nobody waits for that.
            forked.release()
            self._starter = forked
        self._take(result)
        if self._starter is None:
            forked.wait()
            if spare:
                _collect_spare(spare)
        self._trim_soon()
        self._loop.run()
        self._collect()
        self._end()

    def _collect(self) -> None:
        if self._starter:
            self._starter.wait()
            self._starter = None

    def _trim_soon(self) -> None:
        """Give memory back when what is being done is over."""
        if self._trim:
            self._trim.cancel()
        self._trim = self._loop.call_later(sample.settled(), self._rest)

    def _rest(self) -> None:
        self._collect()
        if not self._loop.running:
            return  # its container has ended in the same round: nothing will come to wait for
        compact.trim(self._loop.fileno(), self._loop.time_left())

    def _take(self, result: starter.Result) -> None:
        """Take over what the starter of the first start has made."""
        self._state_message, log, restart, facts, wishes, (hold_count,), *ship = result.extra
        self._id, self._cgroup, self._stdin_once, self._external = facts
        self._restarts = Restarts(RestartPolicy(*restart))
        control, self._run_dir, listener, self._memory, *others = result.fds
        self._open_log(LogConfig(*log), ship, others)
        self._held = self._held or others[:hold_count]
        self._adopt(result, others[hold_count:], *wishes)
        self._listener = socket.socket(fileno=listener)
        self._loop.add(listener, IN, self._accept)
        self._connect(socket.socket(fileno=control))

    def _open_log(self, config: LogConfig, shipper: list[int], fds: list[int]) -> None:
        """``shipper`` is the number of the process that feeds the driver, if there is one; the
        last of ``fds``, taken from them, leads to it."""
        if not shipper:
            self._log = open_writer(config)
            return
        # Few containers need it, and only from now on.
        from sampan.runtime.logs.sink import Sink

        copy = LogConfig("none") if config.on_file else config.kept
        self._sink = Sink(self._loop, fds.pop(), shipper[0], open_writer(copy), config.buffer)

    def _adopt(
        self, result: starter.Result, clients: list[int], attached: bool, checked: bool
    ) -> None:
        """Take over a started first process, with its clients and its health check."""
        started = result.process
        stdio = self._make_stdio(
            started,
            self._output if self._sink is None else self._sink.write,
            once=self._stdin_once,
            on_detach=self._detached(""),
            behind=self._sink,
        )
        if self._sink:
            self._sink.on_low = stdio.drained
        self._task = Task(started, stdio)
        self._loop.add(started.pidfd, IN, self._first_ended)
        self._unfinished += 1
        if attached:
            for attach, fd in zip(self._request.attaches, clients, strict=False):
                stdio.attach(attach, fd)
        if result.oom is not None:
            self._oom = cgroups.adopt_watch(result.oom)
            self._loop.add(self._oom.fd, PRI if self._oom.urgent else IN, self._oom_event)
        if checked and self._request.healthcheck:
            self._state.health = Health("starting", 0, [])
            self._monitor = health.Monitor(
                self._loop, self._request.healthcheck, self._start_probe, self._report_health
            )

    def _launch_again(self) -> Started:
        """Start the first process another time; its event is for the caller to send."""
        message = memfd.read_all(self._memory)
        forked = Starter(lambda sock: starter.again(sock, message))
        result = forked.result(self.early_services)
        forked.wait()
        if result is None:
            raise StartError("the process that was to start it again has died", 125)
        state = self._state
        state.warnings = result.process.warnings
        state.status = "running"
        state.pid = result.process.pid
        state.started_at = time.time_ns()
        state.oom_killed = False
        self._adopt(result, [], False, True)
        return Started(state.pid, state.started_at, state)

    def _start_further(self, request: ExecRequest) -> launch.Process:
        task, message = self._task, memfd.read_all(self._memory)
        assert task is not None

        def work(sock: socket.socket) -> None:
            starter.further(sock, request, message, task.pid, task.pidfd)

        forked = Starter(work)
        result = forked.result()
        forked.wait()
        if result is None:
            raise StartError("the process that was to start it has died", 126)
        return result.process

    def _make_stdio(
        self,
        started: launch.Process,
        on_output: Callable[[int, bytes, int], None],
        *,
        once: bool,
        on_detach: Callable[[], None],
        behind: Backlog | None = None,
    ) -> Stdio:
        if started.streams is None:
            assert started.terminal is not None
            outputs: dict[int, int] = {started.terminal: 1}
            stdin: int | None = started.terminal
        else:
            outputs = {started.streams.stdout: 1, started.streams.stderr: 2}
            stdin = started.streams.stdin
        return Stdio(
            self._loop,
            outputs=outputs,
            stdin=stdin,
            terminal=started.terminal,
            once=once,
            on_output=on_output,
            on_detach=on_detach,
            behind=behind,
        )

    def _start_services(self, network: int) -> None:
        for request in self._request.services:
            self._start_service(request, network)

    def _start_service(self, request: ServiceRequest, network: int) -> None:
        service = _Service(self._loop)
        self._services.append(service)
        service.start(request, {**request.config, "hold_fds": self._held}, network)

    def _set_network(self, links: list[Interface], services: list[ServiceRequest]) -> None:
        self._request.interfaces = links
        known = {service.name for service in self._request.services}
        fresh = [service for service in services if service.name not in known]
        if fresh:
            network = namespaces.open_namespace(self._state.pid, "network")
            try:
                for service in fresh:
                    self._start_service(service, network)
                    self._request.services.append(service)
            finally:
                os.close(network)
        os.close(self._memory)
        self._memory = memfd.sealed_bytes("request", protocol.encoder.encode(self._request))

    def _stop_services(self) -> None:
        for service in self._services:
            service.stop()
        self._services = []

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        self._connect(connection)

    def _connect(self, sock: socket.socket) -> None:
        self._connections.append(
            Connection(self._loop, sock, self.command, self._connections.remove)
        )

    # --- output and events ------------------------------------------------------------------

    def _output(self, stream: int, data: bytes, at: int) -> None:
        assert self._log is not None
        self._log.write(stream, data, at)

    def _detached(self, exec_id: str) -> Callable[[], None]:
        return lambda: self._emit(Detached(exec_id, time.time_ns()))

    def _emit(self, event: KeeperEvent) -> None:
        message = protocol.encoder.encode(event)
        for connection in list(self._connections):
            connection.send(message)

    def _record(self) -> None:
        starter.record(self._run_dir, self._state)

    def _oom_event(self, _: int) -> None:
        if self._oom and self._oom.read() and (self._oom.certain or self._group.oom_kills()):
            self._state.oom_killed = True
            self._emit(OutOfMemory(time.time_ns()))

    # --- the end ----------------------------------------------------------------------------

    def _first_ended(self, _: int) -> None:
        task = self._task
        assert task is not None
        self._loop.remove(task.pidfd)
        code = task.reap()
        task.stdio.process_ended(lambda: self._exited(code), self._finished)

    def _exited(self, code: int) -> None:
        """The first process is gone and all of its output has been read."""
        group, state, restarts = self._group, self._state, self._restarts
        assert restarts is not None
        if not state.oom_killed and group.oom_kills():
            # The notice of it is still on its way.
            state.oom_killed = True
            self._emit(OutOfMemory(time.time_ns()))
        state.exit_code = code
        state.finished_at = time.time_ns()
        state.pid = 0
        self._task = None
        if self._monitor:
            self._monitor.stop()
            self._monitor = None
        if self._oom:
            self._loop.remove(self._oom.fd)
            self._oom.close()
            self._oom = None
        self._stop_services()
        error = external.delete(self._runtime, self._id) if self._external else ""
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
        self._record()
        self._emit(Restarting(code, state.finished_at, restarts.count, delay, state.oom_killed))
        self._again = self._loop.call_later(delay / 1e9, self._start_again)

    def _start_again(self) -> None:
        self._again = None
        try:
            started = self._launch_again()
        except StartError as failure:
            self._stop_services()
            self._state.exit_code = failure.exit_code
            self._state.finished_at = time.time_ns()
            self._conclude(str(failure))
            return
        self._record()
        self._emit(started)

    def _conclude(self, error: str) -> None:
        """It is over: record and tell that when its output is delivered."""
        self._state.error = error
        if self._sink:
            self._sink.close(self._told)
            return
        if self._log:
            self._log.close()
        self._told()

    def _told(self) -> None:
        """Record the end, tell it, and end when the clients are served."""
        state = self._state
        state.status = "exited"
        self._close_all(self._held)
        self._held = []
        self._record()
        self._emit(Exited(state.exit_code, state.finished_at, state.oom_killed, state.error))
        self._over = True
        if not self._unfinished:
            self._loop.stop()

    # --- health -----------------------------------------------------------------------------

    def _start_probe(self, on_end: health.OnEnd) -> health.Probe:
        check = self._request.healthcheck
        assert check is not None
        if self._task is None or self._state.status != "running":
            raise StartError("the container is not running", 126)
        started = self._start_further(ExecRequest("", check.process))
        output = bytearray()

        def collect(_stream: int, data: bytes, _time: int) -> None:
            if len(output) < health.MAX_OUTPUT:
                output.extend(data)

        stdio = self._make_stdio(started, collect, once=True, on_detach=lambda: None)
        probe = Task(started, stdio)
        self._unfinished += 1

        def ended(_: int) -> None:
            self._loop.remove(probe.pidfd)
            code = probe.reap()
            stdio.process_ended(lambda: on_end(code, bytes(output)), self._finished)

        self._loop.add(started.pidfd, IN, ended)
        return probe

    def _report_health(self, state: Health) -> None:
        self._state.health = state
        self._record()
        self._emit(state)

    def _finished(self) -> None:
        """One process is over and its clients are served."""
        self._unfinished -= 1
        if not self._unfinished and self._over:
            self._loop.stop()

    def _end(self) -> None:
        for connection in list(self._connections):
            connection.flush()
        if self._listener:
            self._listener.close()
        try:
            os.unlink(protocol.SOCKET_NAME, dir_fd=self._run_dir)
        except FileNotFoundError:
            pass
        os.close(self._run_dir)
        os.close(self._memory)

    # --- commands ---------------------------------------------------------------------------

    def command(self, command: protocol.Command, fds: list[int]) -> protocol.Reply:
        """Carry out one command; every failure is an answer.  Takes over ``fds``."""
        seq = command.seq
        try:
            value = self._do(command.body, fds)
        except StartError as failure:
            return protocol.Reply(seq, str(failure), failure.exit_code)
        except ValueError as failure:
            return protocol.Reply(seq, str(failure), 22)
        except ProcessLookupError:
            return protocol.Reply(seq, f"container {self._id} is not running", 3)
        except OSError as failure:
            return protocol.Reply(seq, failure.strerror or str(failure), failure.errno or 5)
        finally:
            for fd in fds:
                os.close(fd)
        return protocol.Reply(seq, value=value)

    def _do(self, body: protocol.Body, fds: list[int]) -> Any:
        """``fds`` that are taken over are removed from the list."""
        match body:
            case protocol.GetState():
                self._state.execs = {name: task.pid for name, task in self._execs.items()}
                return self._state
            case protocol.Signal(number=number, everyone=everyone):
                self._signal(number, everyone)
            case protocol.Attach(request=request, exec_id=exec_id):
                if len(fds) != 1:
                    raise ValueError("attach needs one connection")
                self._find(exec_id).stdio.attach(request, fds.pop())
            case protocol.Exec(request=request):
                clients = list(fds)
                fds.clear()
                return self._exec(request, clients)
            case protocol.Resize(rows=rows, columns=columns, exec_id=exec_id):
                terminal = self._find(exec_id).stdio.terminal
                if terminal is None:
                    raise ValueError("the process has no terminal to resize")
                pty.set_window(terminal, rows, columns)
            case protocol.Pause():
                self._pause()
            case protocol.Resume():
                self._resume()
            case protocol.Update(resources=resources):
                self._running_group().update(resources)
            case protocol.SetRestart(name=name, maximum_retry_count=count):
                self._set_restart(name, count)
            case protocol.SetNetwork(interfaces=links, services=services):
                self._set_network(links, services)
        return None

    def _running_group(self) -> cgroups.Group:
        if self._state.status not in ("running", "paused"):
            raise ProcessLookupError
        return self._group

    def _set_restart(self, name: str, count: int) -> None:
        assert self._restarts is not None
        self._restarts.policy = msgspec.convert(
            {"name": name, "maximum_retry_count": count}, RestartPolicy
        )
        if name == "no" and self._again:
            # It was waiting for its next start.
            self._again.cancel()
            self._again = None
            self._conclude("")

    def _signal(self, number: int, everyone: bool) -> None:
        group = self._running_group()
        if not everyone:
            task = self._find("")
            if self._external:
                external.kill(self._runtime, self._id, number)
            else:
                task.signal(number)
            return
        for pid in group.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _find(self, exec_id: str) -> Task:
        task = self._execs.get(exec_id) if exec_id else self._task
        if task is None:
            raise ProcessLookupError
        return task

    def _pause(self) -> None:
        group = self._running_group()
        if self._state.status == "paused":
            raise ValueError(f"container {self._id} is already paused")
        group.freeze()
        self._state.status = "paused"
        self._record()
        self._emit(Paused(time.time_ns()))

    def _resume(self) -> None:
        group = self._running_group()
        if self._state.status != "paused":
            raise ValueError(f"container {self._id} is not paused")
        group.thaw()
        self._state.status = "running"
        self._record()
        self._emit(Unpaused(time.time_ns()))

    def _exec(self, request: ExecRequest, clients: list[int]) -> int:
        if self._state.status == "paused":
            self._close_all(clients)
            raise StartError(f"container {self._id} is paused, unpause it before exec", 126)
        if self._task is None or self._state.status != "running":
            self._close_all(clients)
            raise StartError(f"container {self._id} is not running", 126)
        if len(clients) != len(request.attaches) or request.id in self._execs:
            self._close_all(clients)
            raise StartError("an exec needs one connection for each attach, and a new id", 126)
        try:
            started = self._start_further(request)
        except BaseException:
            self._close_all(clients)
            raise
        stdio = self._make_stdio(
            started, lambda *_: None, once=True, on_detach=self._detached(request.id)
        )
        child = Task(started, stdio)
        self._execs[request.id] = child
        self._unfinished += 1
        self._loop.add(started.pidfd, IN, lambda _: self._exec_ended(request.id, child))
        for attach, fd in zip(request.attaches, clients, strict=True):
            stdio.attach(attach, fd)
        return started.pid

    @staticmethod
    def _close_all(fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)

    def _exec_ended(self, exec_id: str, task: Task) -> None:
        self._loop.remove(task.pidfd)
        code = task.reap()
        del self._execs[exec_id]
        self._trim_soon()
        task.stdio.process_ended(
            lambda: self._emit(ExecExited(exec_id, code, time.time_ns())), self._finished
        )


class _Service:
    """A keeper service and the descriptors that it has registered."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._fds: list[int] = []
        self._running: object = None

    def start(self, request: ServiceRequest, config: dict[str, Any], network: int) -> None:
        self._running = find_service(request.name)(config, network, self._register)

    def _register(self, fd: int, callback: Callable[[], None]) -> None:
        self._fds.append(fd)
        self._loop.add(fd, IN, lambda _: callback())

    def stop(self) -> None:
        for fd in self._fds:
            self._loop.remove(fd)
        close = getattr(self._running, "close", None)
        if close:
            close()
