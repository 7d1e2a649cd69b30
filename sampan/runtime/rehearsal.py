"""Play a container through before there is one.

What is made at its first use (caches of types and names, of functions of the C library) is made in
the spawner then, not in each of its children.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

from sampan.linux import memfd, process
from sampan.runtime import keeper, launch, parcel, protocol, starter
from sampan.runtime.spec import default_spec
from sampan.runtime.starter import Starter
from sampan.runtime.types import (
    AttachRequest,
    ContainerState,
    ExecExited,
    ExecRequest,
    KeeperRequest,
    LogConfig,
)

_TIMES = 2
_LONGEST = 5
"""Seconds."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def run() -> None:
    """Without a place to write to, the rehearsal is left out."""
    place = f"/tmp/sampan-rehearsal-{os.getpid()}"
    try:
        os.mkdir(place, 0o700)
    except OSError:
        return
    try:
        for times in range(_TIMES):
            _play(place, with_exec=times == 0)
    finally:
        for name in os.listdir(place):
            os.unlink(f"{place}/{name}")
        os.rmdir(place)


def _play(place: str, with_exec: bool) -> None:
    """One container, and perhaps an exec in it, that say a word and end, without anything that
    makes them what they are."""
    name = f"rehearsal-{os.getpid()}"
    spec = default_spec(args=("true",), cgroups_path=f"/sampan/{name}")
    log = LogConfig("json-file", f"{place}/log")
    request = KeeperRequest(name, place, spec, [], log)
    message = protocol.encoder.encode(request)
    launch.rehearse(message)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def before() -> None:
        if with_exec:
            _have_exec(near, request)

    def first(sock: socket.socket) -> None:
        _start(sock, request, message, before, far)

    keeper.serve(Starter(first), [far.detach()], further=_start_further)
    near.close()


def _start(
    sock: socket.socket,
    request: KeeperRequest,
    message: bytes,
    before: Callable[[], None],
    far: socket.socket,
) -> None:
    started = _speaker(before)
    directory = os.open(request.run_dir, _DIRECTORY)
    parent = os.getppid()
    state = ContainerState(
        request.id, "running", parent, process.start_time(parent), started.pid, time.time_ns()
    )
    state.cgroup = launch.cgroup_path(request)
    listener = starter.listen(directory)
    memory = memfd.sealed_bytes("request", message)
    extra = starter.facts(request, state)
    starter.report(sock, started, None, extra, [far.fileno(), directory, listener.fileno(), memory])


def _have_exec(near: socket.socket, request: KeeperRequest) -> None:
    """Be the daemon, and ask for an exec; return when it has ended."""
    client, theirs = socket.socketpair()
    wanted = ExecRequest("exec", request.spec["process"], attaches=[AttachRequest()])
    command = protocol.Command(1, protocol.Exec(wanted))
    parcel.send(near, protocol.encoder.encode(command), [theirs.fileno()])
    theirs.close()
    receiver = parcel.Receiver(near)
    while (received := receiver.receive()) is not None:
        if isinstance(protocol.upward_decoder.decode(received[0]), ExecExited):
            break
    client.close()


def _start_further(
    sock: socket.socket, _request: ExecRequest, _message: bytes, _pid: int, _pidfd: int
) -> None:
    starter.report(sock, _speaker(lambda: None), None)


def _speaker(before: Callable[[], None]) -> launch.Process:
    """A process that says a word after something else."""
    streams = launch.Streams.make(False)
    pid = os.fork()
    if not pid:
        try:
            # Nobody waits longer, whatever happens.
            signal.alarm(_LONGEST)
            before()
            os.write(streams.child[1], b"word\n")
        finally:
            os._exit(0)
    streams.close_child()
    return launch.Process(pid, os.pidfd_open(pid), streams, None, [])
