"""Play a container through before there is one.

What is made at its first use (caches of types and names, of functions of the C library) is made in
the spawner then, not in each of its children.
"""

from __future__ import annotations

import os
import socket
import time

from sampan.linux import memfd, process
from sampan.runtime import keeper, launch, protocol, starter
from sampan.runtime.spec import default_spec
from sampan.runtime.starter import Starter
from sampan.runtime.types import ContainerState, KeeperRequest, LogConfig

_TIMES = 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def run() -> None:
    """Without a place to write to, the rehearsal is left out."""
    place = f"/tmp/sampan-rehearsal-{os.getpid()}"
    try:
        os.mkdir(place, 0o700)
    except OSError:
        return
    try:
        for _ in range(_TIMES):
            _play(place)
    finally:
        for name in os.listdir(place):
            os.unlink(f"{place}/{name}")
        os.rmdir(place)


def _play(place: str) -> None:
    """One container that says a word and ends, without anything that makes it one."""
    name = f"rehearsal-{os.getpid()}"
    spec = default_spec(args=("true",), cgroups_path=f"/sampan/{name}")
    log = LogConfig("json-file", f"{place}/log")
    request = KeeperRequest(name, place, spec, [], log)
    message = protocol.encoder.encode(request)
    launch.rehearse(message)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper.serve(Starter(lambda sock: _start(sock, request, message, far)), [far.detach()])
    near.close()


def _start(sock: socket.socket, request: KeeperRequest, message: bytes, far: socket.socket) -> None:
    streams = launch.Streams.make(False)
    pid = os.fork()
    if not pid:
        os.write(streams.child[1], b"word\n")
        os._exit(0)
    streams.close_child()
    started = launch.Process(pid, os.pidfd_open(pid), streams, None, [])
    directory = os.open(request.run_dir, _DIRECTORY)
    parent = os.getppid()
    state = ContainerState(
        request.id, "running", parent, process.start_time(parent), pid, time.time_ns()
    )
    state.cgroup = launch.cgroup_path(request)
    listener = starter.listen(directory)
    memory = memfd.sealed_bytes("request", message)
    extra = starter.facts(request, state)
    starter.report(sock, started, None, extra, [far.fileno(), directory, listener.fileno(), memory])
