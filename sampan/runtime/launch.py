"""The keeper's part of starting processes: streams, the fork, the group and the network.

:func:`start_container` forks the container's first process (:mod:`sampan.runtime.init`) and
:func:`start_exec` a further one (:mod:`sampan.runtime.enter`).  Both return when the program has
been executed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from sampan.linux import namespaces
from sampan.linux.namespaces import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
)
from sampan.runtime import cgroups, confine, enter, init, interfaces, parcel, supported, userns
from sampan.runtime.errors import StartError
from sampan.runtime.stage import NAMESPACES
from sampan.runtime.sync import KeeperSide, describe
from sampan.runtime.types import ExecRequest, KeeperRequest

_PREFIX = "failed to create task for container: unable to start container process: "
_EXEC_PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "
_RDONLY = os.O_RDONLY | os.O_CLOEXEC

request_decoder = msgspec.msgpack.Decoder(KeeperRequest)
_JOINED_BY_EXEC = ("user", "mount", "pid", "ipc", "uts", "network", "cgroup", "time")


class Streams(NamedTuple):
    """The two ends of a process's stdio: the child's three, the keeper's three."""

    child: tuple[int, ...]
    stdin: int | None
    stdout: int
    stderr: int

    @classmethod
    def make(cls, open_stdin: bool) -> Streams:
        if open_stdin:
            in_read, in_write = os.pipe2(os.O_CLOEXEC)
        else:
            in_read, in_write = os.open(os.devnull, _RDONLY), None
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        return cls((in_read, out_write, err_write), in_write, out_read, err_read)

    def close_child(self) -> None:
        for fd in self.child:
            os.close(fd)

    def close_keeper(self) -> None:
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd is not None:
                os.close(fd)


class Process(NamedTuple):
    """A started process: its number, its pidfd, and either streams or a terminal's master."""

    pid: int
    pidfd: int
    streams: Streams | None
    terminal: int | None
    warnings: list[str]


def _fork(in_pid_namespace: int | None, fresh: bool) -> int:
    """Fork a child into a new (``fresh``) or another process-number namespace, or into our own.

    Only children are affected by entering such a namespace; the keeper returns to its own for
    the next.
    """
    if in_pid_namespace is None and not fresh:
        return os.fork()
    own = os.open("/proc/self/ns/pid", _RDONLY)
    try:
        if fresh:
            namespaces.unshare(CLONE_NEWPID)
        else:
            assert in_pid_namespace is not None
            namespaces.setns(in_pid_namespace, CLONE_NEWPID)
        try:
            pid = os.fork()
        except BaseException:
            namespaces.setns(own, CLONE_NEWPID)
            raise
        if pid:
            namespaces.setns(own, CLONE_NEWPID)
        return pid
    finally:
        os.close(own)


def _namespaces(linux: dict[str, Any]) -> tuple[int, bool, dict[str, str]]:
    """(flags of the new ones without pid, whether pid is new, paths of those to be joined)."""
    flags, fresh_pid, paths = 0, False, {}
    for entry in linux.get("namespaces") or ():
        kind = str(entry["type"])
        if kind not in namespaces.TYPES:
            raise ValueError(f"unknown namespace type {kind!r}")
        if entry.get("path"):
            paths[kind] = str(entry["path"])
        elif kind == "pid":
            fresh_pid = True
        else:
            flags |= namespaces.TYPES[kind][0]
    if not flags & CLONE_NEWNS and "mount" not in paths:
        raise ValueError("a container needs a mount namespace of its own")
    if flags & CLONE_NEWTIME:
        raise ValueError("new time namespaces are not supported")
    return flags, fresh_pid, paths


def _exposed(linux: dict[str, Any]) -> bool:
    """Whether the process joins a process-number namespace of others."""
    return "pid" in _namespaces(linux)[2]


class Spare:
    """A first process forked before there is a container for it, in new namespaces and with a
    part of its mounts (:mod:`sampan.runtime.stage`), waiting for its plan.

    It is the child of the process that makes this object; another one may own :attr:`sock`."""

    def __init__(self, own_network: bool, *closed_in_child: int) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = _fork(None, True)
        if not self.pid:
            self.sock.close()
            for unused in closed_in_child:
                os.close(unused)
            init.run_spare(theirs, _decode_plan, own_network)
        theirs.close()


def rehearse(message: bytes) -> None:
    """Decode and plan, for nothing (see :mod:`sampan.runtime.rehearsal`)."""
    _decode_plan(message)


def _decode_plan(message: bytes) -> init.Plan:
    plan, _, _ = _plan(request_decoder.decode(message), [])
    return plan


def cgroup_path(request: KeeperRequest) -> str:
    """The control group that the specification names, or the default."""
    return str((request.spec.get("linux") or {}).get("cgroupsPath") or f"/sampan/{request.id}")


def _plan(request: KeeperRequest, opened: list[int]) -> tuple[init.Plan, bool, int | None]:
    """(plan, whether the process-number namespace is new, descriptor of another one to enter).

    Descriptors of namespaces are added to ``opened``.  Raises ValueError and OSError.
    """
    supported.check(request.spec)
    linux = request.spec.get("linux") or {}
    flags, fresh_pid, paths = _namespaces(linux)
    flags_of_filter = (linux.get("seccomp") or {}).get("flags") or ()
    confinement = confine.prepare(request.spec["process"], request.seccomp_program, flags_of_filter)
    fds = {}
    for kind, path in paths.items():
        fds[kind] = os.open(path, _RDONLY)
        opened.append(fds[kind])
    mapping, user, own_network = userns.of_spec(linux), -1, False
    if mapping is not None:
        made = userns.make(mapping, userns.can_be_inside(flags))
        opened += made.values()
        user, own_network = made.pop("user"), "network" in made
        for kind in made:
            flags &= ~namespaces.TYPES[kind][0]
        flags &= ~CLONE_NEWUSER
        fds.update(made)
    joined = tuple(
        (fd, namespaces.TYPES[kind][0])
        for kind, fd in sorted(fds.items(), key=lambda item: item[0] == "mount")
        if kind != "pid"
    )
    remapped = init.Remapped(mapping, user, own_network) if mapping else None
    points = cgroups.group(cgroup_path(request)).mount_points()
    plan = init.Plan(request, confinement, flags, joined, points, remapped)
    return plan, fresh_pid, fds.get("pid")


def _fits(linux: dict[str, Any]) -> bool:
    """Whether a spare can become what the specification asks for: it has new namespaces, and can
    enter another one for the network only."""
    flags, fresh_pid, paths = _namespaces(linux)
    return (
        fresh_pid
        and flags & NAMESPACES == NAMESPACES
        and not flags & CLONE_NEWUSER
        and paths.keys() <= {"network"}
        and userns.of_spec(linux) is None
    )


class Begun(NamedTuple):
    """A first process that has its plan and is at work; the other side of it is to be done."""

    pid: int
    pidfd: int
    streams: Streams | None
    sync: KeeperSide

    def give_up(self) -> None:
        """End it, and close what there is for it."""
        _give_up(self.pid, self.pidfd, self.streams, self.sync)


def begin_container(
    request: KeeperRequest, spare: Spare | None = None, message: bytes = b""
) -> Begun:
    """Have a process become the container's first one.

    A ``spare`` child is used if the specification allows, and given ``message``, the encoded
    request; otherwise it is let go.  Raises StartError.
    """
    linux = request.spec.get("linux") or {}
    opened: list[int] = []
    terminal = bool(request.spec["process"].get("terminal"))
    streams = None if terminal else Streams.make(request.open_stdin)
    stdio = streams.child if streams else None
    try:
        if spare is not None and _fits(linux):
            ours, pid = spare.sock, spare.pid
            parcel.send(ours, message, stdio or ())
        else:
            if spare is not None:
                spare.sock.close()
            plan, fresh_pid, pid_namespace = _plan(request, opened)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = _fork(pid_namespace, fresh_pid)
            if not pid:
                init.run(plan, theirs, stdio)
            theirs.close()
    except (ValueError, OSError) as failure:
        raise StartError(_PREFIX + describe(failure), 125) from None
    finally:
        for fd in opened:
            os.close(fd)
    pidfd = os.pidfd_open(pid)
    if streams:
        streams.close_child()
    return Begun(pid, pidfd, streams, KeeperSide(ours, pid if _exposed(linux) else 0))


def finish_container(
    begun: Begun,
    request: KeeperRequest,
    group: cgroups.Group,
    on_network: Callable[[int], None],
) -> Process:
    """Make the control group and the network of a process that makes the rest; return when the
    program runs.

    ``on_network`` is called with a descriptor of the network namespace before that.  Raises
    StartError; the process and what was made for it are gone then.
    """
    linux = request.spec.get("linux") or {}
    pid, sync = begun.pid, begun.sync
    try:
        # The group is made while the child makes its namespaces and mounts.
        warnings = group.create(linux.get("resources") or {})
        sync.wait_for_namespaces()
        group.add(pid)
        network = os.open(f"/proc/{pid}/ns/net", _RDONLY)
        try:
            for interface in request.interfaces:
                interfaces.create_host_side(interface, network)
            on_network(network)
        finally:
            os.close(network)
        sync.go()
        sync.wait_for_exec()
    except (StartError, OSError, ValueError) as failure:
        reported = sync.report(failure)
        begun.give_up()
        raise _start_error(_PREFIX, reported) from None
    finally:
        sync.close()
    return Process(pid, begun.pidfd, begun.streams, sync.terminal, warnings + sync.warnings)


def start_exec(
    request: ExecRequest,
    container: KeeperRequest,
    container_pidfd: int,
    container_pid: int,
    group: cgroups.Group,
    unwanted: int,
) -> Process:
    """Start a further process in all namespaces of the container.

    Given up when the descriptor ``unwanted`` has an event.  Raises StartError.
    """
    try:
        confinement = confine.prepare(request.process, container.seccomp_program)
        flags = 0
        for kind in _JOINED_BY_EXEC:
            if _differs(container_pid, kind):
                flags |= namespaces.TYPES[kind][0]
        pid_namespace = namespaces.open_namespace(container_pid, "pid")
    except (ValueError, OSError) as failure:
        raise _start_error(_EXEC_PREFIX, failure) from None
    terminal = bool(request.process.get("terminal"))
    streams = None if terminal else Streams.make(request.open_stdin)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mapping = userns.of_spec(container.spec.get("linux") or {})
    plan = enter.Plan(request, confinement, container_pidfd, flags & ~CLONE_NEWPID, mapping)
    try:
        pid = _fork(pid_namespace, False)
        if not pid:
            ours.close()
            os.close(unwanted)
            enter.run(plan, theirs, streams.child if streams else None)
    except OSError as failure:
        raise _start_error(_EXEC_PREFIX, failure) from None
    finally:
        os.close(pid_namespace)
    pidfd = os.pidfd_open(pid)
    theirs.close()
    if streams:
        streams.close_child()
    sync = KeeperSide(ours, pid)
    sync.unwanted = unwanted
    try:
        group.add(pid)
        sync.go()
        sync.wait_for_exec()
    except (StartError, OSError, ValueError) as failure:
        reported = sync.report(failure)
        _give_up(pid, pidfd, streams, sync)
        raise _start_error(_EXEC_PREFIX, reported) from None
    finally:
        ours.close()
    return Process(pid, pidfd, streams, sync.terminal, sync.warnings)


def _differs(pid: int, kind: str) -> bool:
    """Whether the container's namespace of this kind is another than the keeper's."""
    name = namespaces.TYPES[kind][1]
    try:
        return os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino
    except FileNotFoundError:
        return False


def _give_up(pid: int, pidfd: int, streams: Streams | None, sync: KeeperSide) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # a spare, which is the keeper's to collect
    os.close(pidfd)
    if streams:
        streams.close_keeper()
    if sync.terminal is not None:
        os.close(sync.terminal)


def _start_error(prefix: str, failure: Exception) -> StartError:
    if isinstance(failure, StartError):
        return StartError(prefix + str(failure), failure.exit_code)
    return StartError(prefix + describe(failure), 125)
