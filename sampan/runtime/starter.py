"""Starters: short-lived processes that start a container's processes for its keeper.

Starting touches hundreds of objects, and every page touched after a fork is a page of one's own.
So the keeper forks a *starter* for each start: it decodes the request, makes the control group and
the network, starts the process, hands the keeper what it needs to go on (a few numbers and the
descriptors) and ends.  The keeper is a subreaper meanwhile, and so becomes the parent of what the
starter has started.  Its own memory stays small as long as the container lives.

A starter's parcels to its keeper are lists with one of the kinds below at their head.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from sampan.linux import memfd, process
from sampan.runtime import cgroups, launch, parcel, protocol
from sampan.runtime.errors import StartError
from sampan.runtime.external import start as external
from sampan.runtime.logs.writer import open_writer
from sampan.runtime.types import (
    ContainerState,
    ExecRequest,
    Health,
    KeeperRequest,
    LogConfig,
    Started,
    StartFailed,
)

_SERVICES, _STARTED, _FAILED = 1, 2, 3
_BACKLOG = 8
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.decode
_state_encoder = msgspec.json.Encoder()

OnServices = Callable[[int, bytes, list[int]], None]
"""Called with the network namespace; on the first start also the request and held descriptors."""


Further = Callable[[socket.socket, ExecRequest, bytes, int, int], None]
"""Starts a further process: :func:`further`."""


class Result(NamedTuple):
    """A started process and what came with it."""

    process: launch.Process
    oom: int | None
    """The descriptor of the group's watch for want of memory."""
    extra: list[Any]
    fds: list[int]
    """What belongs to ``extra``."""


class Reported:
    """What is reported of a start, on a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._receiver = parcel.Receiver(sock)

    def result(self, on_services: OnServices | None = None) -> Result | None:
        """Wait for the start; None if the starter has ended without one (it has said so itself,
        or there was nothing to start).  ``on_services`` is called with a descriptor of the network
        namespace before the program runs, if the container has services.  :meth:`wait` is to be
        called next, or :meth:`release` and :meth:`wait` some time.  Raises StartError (and has
        waited then).
        """
        try:
            while (result := self.report(on_services)) is None:
                pass
            return result
        except EOFError:
            return None
        except StartError:
            self.wait()
            raise
        finally:
            self._socket.close()

    def report(self, on_services: OnServices | None = None) -> Result | None:
        """Take one report: of the start, or (None) of services that were to be started.  Raises
        StartError, EOFError after the last one, and BlockingIOError where there is none yet."""
        received = self._receiver.receive()
        if received is None:
            raise EOFError
        message, fds = received
        kind, *values = _unpack(message)
        if kind == _STARTED:
            return _started(values, fds)
        if kind == _FAILED:
            raise StartError(*values)
        network, *held = fds
        answer = _serve(on_services, network, values[0], held)
        os.close(network)
        try:
            self._socket.send(answer)
        except BrokenPipeError:
            pass  # it has died, or has been given up
        return None

    def release(self) -> None:
        """What was started is the caller's child already: adopt nothing."""

    def wait(self) -> None:
        """Collect what has made the start."""


class Starter(Reported):
    """The keeper's handle of a starter."""

    def __init__(self, work: Callable[[socket.socket], None]) -> None:
        """Fork; the child does ``work`` and ends.  Raises OSError."""
        sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(sock)
        _adopt(1)
        try:
            self._pid = os.fork()
        except OSError:
            _adopt(-1)
            sock.close()
            theirs.close()
            raise
        self._adopts = True
        if not self._pid:
            try:
                self._socket.close()
                work(theirs)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(0)
        theirs.close()

    def fileno(self) -> int:
        """The descriptor that can be read when there is a report, or no more."""
        return self._socket.fileno()

    def give_up(self) -> None:
        """Tell the starter that what it starts is not wanted any more.  It ends that and reports
        a failure, unless it has reported the start already."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """There is no more report to come."""
        self._socket.close()

    def release(self) -> None:
        self._adopts = False
        _adopt(-1)

    def wait(self) -> None:
        """Collect the starter.  From then on what it has started is the caller's child."""
        os.waitpid(self._pid, 0)
        if self._adopts:
            self.release()


_starting = 0
"""How many starters there are whose children are to become ours."""


def _adopt(change: int) -> None:
    global _starting
    before = _starting
    _starting += change
    if not before or not _starting:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, int(_starting > 0))


def _serve(on_services: OnServices | None, network: int, message: bytes, held: list[int]) -> bytes:
    try:
        if on_services:
            on_services(network, message, held)
    except (StartError, ValueError, OSError) as failure:
        return str(failure).encode() or b"it failed"
    return b""


def _started(values: list[Any], fds: list[int]) -> Result:
    pid, warnings, shape, watched, *extra = values
    taken = iter(fds)
    pidfd = next(taken)
    oom = next(taken) if watched else None
    streams, terminal = None, None
    if shape == 1:
        terminal = next(taken)
    else:
        stdin = next(taken) if shape == 3 else None
        streams = launch.Streams((), stdin, next(taken), next(taken))
    return Result(launch.Process(pid, pidfd, streams, terminal, warnings), oom, extra, list(taken))


# --- in the starter -------------------------------------------------------------------------


def report(
    sock: socket.socket,
    started: launch.Process,
    watch: cgroups.OomWatch | None,
    extra: Sequence[object] = (),
    fds: Sequence[int] = (),
) -> list[int]:
    """Hand a started process to the keeper.  Returns the descriptors that came with it."""
    streams = started.streams
    own = [started.pidfd]
    if watch:
        own.append(watch.fd)
    if streams is None:
        assert started.terminal is not None
        shape = 1
        own.append(started.terminal)
    elif streams.stdin is None:
        shape = 2
        own += (streams.stdout, streams.stderr)
    else:
        shape = 3
        own += (streams.stdin, streams.stdout, streams.stderr)
    values = [_STARTED, started.pid, started.warnings, shape, watch is not None, *extra]
    try:
        parcel.send(sock, _pack(values), [*own, *fds])
    except BrokenPipeError:
        pass  # the keeper was killed: whoever finds that out kills the container
    return own


def first(
    sock: socket.socket,
    message: bytes,
    fds: list[int],
    spare: launch.Spare | None = None,
    on_services: OnServices | None = None,
) -> None:
    """Start the container for the first time: as the request says, with its descriptors.

    The daemon is told here; the keeper gets the state, the log's configuration, the restart
    policy and a few facts, and as descriptors the control connection, the run directory, the
    listening socket, the request, and the held and attached ones.  A keeper that calls this itself
    says what is to be done ``on_services``.
    """
    request = launch.request_decoder.decode(message)
    control = socket.socket(fileno=fds[0])
    control.setblocking(True)
    try:
        if request.runtime:
            if spare is not None:
                spare.sock.close()
            _first(sock, request, message, fds, None, on_services)
        else:
            # The process makes its mounts while everything else is made here.
            begun = launch.begin_container(request, spare, message)
            _first(sock, request, message, fds, begun, on_services)
    except StartError as failure:
        answer = StartFailed(str(failure), failure.exit_code)
        try:
            parcel.send(control, protocol.encoder.encode(answer))
        except OSError:
            pass  # nobody waits for the answer any more


def _first(
    sock: socket.socket,
    request: KeeperRequest,
    message: bytes,
    fds: list[int],
    begun: launch.Begun | None,
    on_services: OnServices | None,
) -> None:
    keeper = os.getpid() if on_services else os.getppid()
    try:
        run_dir = os.open(request.run_dir, _DIRECTORY)
        group = cgroups.group(launch.cgroup_path(request))
        if not request.log.shipped:
            open_writer(request.log).close()
        state = ContainerState(request.id, "running", keeper, process.start_time(keeper))
        ship = _shipper(request)
    except (OSError, ValueError) as failure:
        if begun:
            begun.give_up()
        raise StartError(f"failed to create task for container: {failure}", 125) from None
    state.cgroup = group.path
    try:
        held, attached = fds[1 : 1 + request.hold_count], fds[1 + request.hold_count :]
        started = _finish(sock, request, message, group, begun, held, on_services)
        state.pid, state.warnings, state.started_at = started.pid, started.warnings, time.time_ns()
        if request.healthcheck:
            state.health = Health("starting", 0, [])
        listener = listen(run_dir)
        record(run_dir, state)
        event = Started(started.pid, state.started_at, state)
    except BaseException as failure:
        _undo(group)
        if isinstance(failure, OSError):
            raise StartError(f"failed to create task for container: {failure}", 125) from None
        raise
    watch = group.watch_oom()
    control = socket.socket(fileno=os.dup(fds[0]))
    try:
        parcel.send(control, protocol.encoder.encode(event))
    except OSError:
        pass  # the daemon has gone; the keeper will find that as well
    memory = memfd.sealed_bytes("request", message)
    others = [run_dir, memory, *(() if request.services else held), *attached, *ship[:1]]
    passed = [fds[0], run_dir, listener.fileno(), *others[1:]]
    own = report(sock, started, watch, [*facts(request, state), *ship[1:]], passed)
    if on_services:
        # The caller gets copies of these; sockets close themselves.
        for fd in (*own, *others):
            os.close(fd)


def _shipper(request: KeeperRequest) -> tuple[int, ...]:
    """(socket, process number) of the process that feeds the log's driver; () of none."""
    if not request.log.shipped:
        return ()
    from sampan.runtime.logs import shipper

    return shipper.start(request.log)


def _log_facts(log: LogConfig) -> tuple[object, ...]:
    rotation = log.max_size, log.max_file
    return (log.driver, log.path, *rotation, log.attributes, log.buffer, log.compress)


def facts(request: KeeperRequest, state: ContainerState) -> list[object]:
    """What the keeper of a new container is told; the rest it decodes when it needs it."""
    log, restart = request.log, request.restart
    return [
        protocol.encoder.encode(state),
        _log_facts(log),
        (restart.name, restart.maximum_retry_count),
        (request.id, state.cgroup, request.stdin_once, bool(request.runtime)),
        (bool(request.attaches), request.healthcheck is not None),
        (0 if request.services else request.hold_count,),
    ]


def again(sock: socket.socket, message: bytes) -> None:
    """Start the container another time."""
    request = launch.request_decoder.decode(message)
    group = cgroups.group(launch.cgroup_path(request))
    try:
        begun = None if request.runtime else launch.begin_container(request)
        if begun:
            begun.sync.unwanted = sock.fileno()
        started = _finish(sock, request, message, group, begun, None)
    except StartError as failure:
        _undo(group)
        fail(sock, failure)
        return
    report(sock, started, group.watch_oom())


def fail(sock: socket.socket, failure: StartError) -> None:
    """Tell the keeper that there will be no process."""
    try:
        parcel.send(sock, _pack([_FAILED, str(failure), failure.exit_code]))
    except BrokenPipeError:
        pass  # the keeper was killed


def further(
    sock: socket.socket, request: ExecRequest, message: bytes, pid: int, pidfd: int
) -> None:
    """Start a further process in the container whose first process is ``pid``."""
    container = launch.request_decoder.decode(message)
    group = cgroups.group(launch.cgroup_path(container))
    try:
        if container.runtime:
            started = external.start_exec(request, container, pid, sock.fileno())
        else:
            started = launch.start_exec(request, container, pidfd, pid, group, sock.fileno())
    except StartError as failure:
        fail(sock, failure)
        return
    report(sock, started, None)


def _finish(
    sock: socket.socket,
    request: KeeperRequest,
    message: bytes,
    group: cgroups.Group,
    begun: launch.Begun | None,
    held: Sequence[int] | None,
    on_services: OnServices | None = None,
) -> launch.Process:
    """Start the process, or have another runtime start one where none is ``begun``.  ``held`` is
    given on the first start, when the keeper knows nothing yet; ``on_services`` by the keeper."""

    def on_network(network: int) -> None:
        if not request.services:
            return
        known = b"" if held is None else message
        if on_services:
            failed = _serve(on_services, network, known, list(held or ()))
            if failed:
                raise StartError(failed.decode(errors="replace"), 125)
            return
        parcel.send(sock, _pack([_SERVICES, known]), [network, *(held or ())])
        answer = sock.recv(4096)
        if answer:
            raise StartError(answer.decode(errors="replace"), 125)

    if begun is None:
        return external.start_container(request, on_network)
    return launch.finish_container(begun, request, group, on_network)


def _undo(group: cgroups.Group) -> None:
    try:
        group.delete()
    except OSError:
        pass  # the failure of the start is what is to be told


def listen(run_dir: int) -> socket.socket:
    """The socket on which a keeper waits for connections."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.unlink(protocol.SOCKET_NAME, dir_fd=run_dir)
    except FileNotFoundError:
        pass
    # By the descriptor: a socket's path is limited to 108 bytes.
    listener.bind(f"/proc/self/fd/{run_dir}/{protocol.SOCKET_NAME}")
    os.chmod(protocol.SOCKET_NAME, 0o600, dir_fd=run_dir)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def record(run_dir: int, state: ContainerState) -> None:
    """Write the state so that a reader sees the old one or the new one."""
    temporary = protocol.STATE_NAME + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600, dir_fd=run_dir)
        try:
            os.write(fd, _state_encoder.encode(state))
        finally:
            os.close(fd)
        os.replace(temporary, protocol.STATE_NAME, src_dir_fd=run_dir, dst_dir_fd=run_dir)
    except FileNotFoundError:
        pass  # the container has been removed meanwhile
