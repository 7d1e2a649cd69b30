"""A keeper without a container, of whose memory a sample is taken (:mod:`sampan.runtime.sample`).

The spawner forks it for a request like any other; only its starter makes nothing, and hands over
what might have been made.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from sampan.linux import memfd, process
from sampan.runtime import cgroups, launch, protocol, starter
from sampan.runtime.spec import default_spec
from sampan.runtime.types import ContainerState, KeeperRequest, LogConfig

_LONGEST = 5
"""Seconds after which nothing of the model runs any more, whatever happens."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Found now: see the sample's module for what it costs to find it later.
_wait_for_child = os.wait


def request() -> socket.socket:
    """A connection that asks the spawner for one keeper, and ends."""
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(theirs, [protocol.KEEPER], [0])
    theirs.close()
    return ours


def wait() -> None:
    """Return when every child of the spawner, and what they have left, has ended."""
    try:
        while True:
            _wait_for_child()
    except ChildProcessError:
        pass
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 0)


def start(sock: socket.socket, requests: int, spare: launch.Spare) -> None:
    """In the model's starter: hand over what the start of a usual container would."""
    os.close(requests)
    # What has the length of its like takes the place of its like.
    name = f"{os.getpid():064x}"
    run_dir = f"/run/sampan/containers/{name}"
    spec = default_spec(args=("true",), cgroups_path=f"/sampan/{name}")
    log = LogConfig("local", "/dev" + "/." * 47 + "/null")
    wanted = KeeperRequest(name, run_dir, spec, [], log)
    streams = launch.Streams.make(False)
    control, daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        # It has the other ends of the streams, of the daemon's connection and of the spare's,
        # which stands for the container's process.
        control.close()
        signal.alarm(_LONGEST)
        signal.pause()
    daemon.close()
    streams.close_child()
    keeper = os.getppid()
    state = ContainerState(
        name, "running", keeper, process.start_time(keeper), spare.pid, time.time_ns()
    )
    state.cgroup = launch.cgroup_path(wanted)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")
    listener.listen()
    memory = memfd.sealed_bytes("request", protocol.encoder.encode(wanted))
    # Nothing can be made in the directory, whatever happens to the model.
    fds = [control.fileno(), os.open("/proc", _DIRECTORY), listener.fileno(), memory]
    started = launch.Process(spare.pid, os.pidfd_open(spare.pid), streams, None, [])
    watch = cgroups.adopt_watch(os.eventfd(0))
    starter.report(sock, started, watch, starter.facts(wanted, state), fds)
