"""Start a container, or a further process in it, by another runtime; in a starter.

The runtime's children become the starter's when the runtime's command has ended, and the keeper's
when the starter has: both are subreapers meanwhile.  So the keeper collects their exit codes as it
does for processes of our own.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence

from sampan.linux import files, namespaces, process, pty
from sampan.linux import mount as mounts
from sampan.runtime import interfaces, userns
from sampan.runtime.errors import StartError
from sampan.runtime.external import bundle
from sampan.runtime.external.command import Runtime, call
from sampan.runtime.external.end import delete
from sampan.runtime.launch import Process, Streams, cgroup_path
from sampan.runtime.sync import describe
from sampan.runtime.types import ExecRequest, KeeperRequest

_PREFIX = "failed to create task for container: OCI runtime create failed: "
_START_PREFIX = "failed to create task for container: OCI runtime start failed: "
_EXEC_PREFIX = "OCI runtime exec failed: "
_RDONLY = os.O_RDONLY | os.O_CLOEXEC


def start_container(request: KeeperRequest, on_network: Callable[[int], None]) -> Process:
    """As :func:`sampan.runtime.launch.start_container`; enters a mount namespace for good.

    Raises StartError; what was made for it is gone then.
    """
    runtime = _runtime(request)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    made: dict[str, int] = {}
    streams = None
    try:
        # What a keeper that was killed has left.
        delete(runtime, request.id)
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_SLAVE)
        remapped = _users(request, made)
        root = bundle.attach_root(request, runtime, remapped)
        _network(request, on_network, made)
        paths = {kind: f"/proc/{os.getpid()}/fd/{fd}" for kind, fd in made.items()}
        bundle.write(request, runtime, root, paths, remapped)
        os.close(root)
        terminal = bool(request.spec["process"].get("terminal"))
        streams = None if terminal else Streams.make(request.open_stdin)
        pid_file = f"{runtime.bundle}/pid"
        words = ["create", "--bundle", runtime.bundle, "--pid-file", pid_file]
        master = _run(runtime, words, [request.id], streams)
    except (StartError, OSError, ValueError) as failure:
        if streams:
            streams.close_keeper()
        delete(runtime, request.id)
        _collect_strays()
        raise _error(_PREFIX, failure, 125) from None
    finally:
        for fd in made.values():
            os.close(fd)
        if streams:
            streams.close_child()
    return _started(request, runtime, pid_file, streams, master)


def _runtime(request: KeeperRequest) -> Runtime:
    """The container's runtime, told to ask systemd for the group if the path is in its form; what
    it writes down about the container keeps that for the commands that follow."""
    scope = cgroup_path(request).count(":") == 2
    words = [*request.runtime, "--systemd-cgroup"] if scope else request.runtime
    return Runtime(words, request.run_dir)


def _started(
    request: KeeperRequest,
    runtime: Runtime,
    pid_file: str,
    streams: Streams | None,
    master: int | None,
) -> Process:
    """Open the created container's gate."""
    pidfd = -1
    try:
        pid = _read_pid(pid_file)
        pidfd = os.pidfd_open(pid)
        call(runtime, "start", request.id)
    except (StartError, OSError, ValueError) as failure:
        delete(runtime, request.id)
        if pidfd >= 0:
            os.close(pidfd)
        _collect_strays()
        _close(streams, master)
        raise _error(_START_PREFIX, failure, 125) from None
    _resize(master, request.spec["process"])
    return Process(pid, pidfd, streams, master, [])


def start_exec(request: ExecRequest, container: KeeperRequest, pid: int, unwanted: int) -> Process:
    """As :func:`sampan.runtime.launch.start_exec`; ``pid`` is the container's first process."""
    runtime = _runtime(container)
    name = f"{runtime.bundle}/exec-{request.id or os.getpid()}"
    streams, master, further = None, None, -1
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bundle.write_process(f"{name}.json", request.process, root)
        finally:
            os.close(root)
        terminal = bool(request.process.get("terminal"))
        streams = None if terminal else Streams.make(request.open_stdin)
        words = ["exec", "--detach", "--pid-file", f"{name}.pid", "--process", f"{name}.json"]
        master = _run(runtime, words, [container.id], streams, unwanted)
        further = _read_pid(f"{name}.pid")
        pidfd = os.pidfd_open(further)
    except (StartError, OSError, ValueError) as failure:
        _collect_strays()
        _close(streams, master)
        raise _error(_EXEC_PREFIX, failure, 126) from None
    finally:
        if streams:
            streams.close_child()
        for path in (f"{name}.json", f"{name}.pid"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    _resize(master, request.process)
    return Process(further, pidfd, streams, master, [])


def _collect_strays() -> None:
    """End and collect what a command that failed has left as our children.

    A dead process that nobody collects would keep the container's first process from ending.
    """
    for text in files.read("/proc/thread-self/children").split():
        os.kill(int(text), signal.SIGKILL)
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


# --- streams ----------------------------------------------------------------------------------


def _run(
    runtime: Runtime,
    words: list[str],
    arguments: list[str],
    streams: Streams | None,
    unwanted: int = -1,
) -> int | None:
    """Run a command that makes a process; the terminal's master if the process has one."""
    if streams:
        call(runtime, *words, *arguments, stdio=streams.child, unwanted=unwanted)
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # By a descriptor of ours: a socket's path is limited to 108 bytes.
        directory = os.open(runtime.bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = f"/proc/{os.getpid()}/fd/{directory}/console-{os.getpid()}"
            listener.bind(name)
            try:
                listener.listen(1)
                call(runtime, *words, "--console-socket", name, *arguments, unwanted=unwanted)
            finally:
                os.unlink(name)
        finally:
            os.close(directory)
        listener.settimeout(10)
        connection, _ = listener.accept()
        with connection:
            _, masters, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
    if not masters:
        raise StartError("the runtime did not hand over the terminal", 125)
    return masters[0]


def _resize(master: int | None, wanted: dict[str, object]) -> None:
    size = wanted.get("consoleSize")
    if master is not None and isinstance(size, dict):
        pty.set_window(master, int(size.get("height", 0)), int(size.get("width", 0)))


def _close(streams: Streams | None, master: int | None) -> None:
    if streams:
        streams.close_keeper()
    if master is not None:
        os.close(master)


def _read_pid(path: str) -> int:
    fd = os.open(path, _RDONLY)
    try:
        return int(os.read(fd, 32))
    finally:
        os.close(fd)


# --- network ----------------------------------------------------------------------------------


def _users(request: KeeperRequest, made: dict[str, int]) -> bundle.Remapped | None:
    """Make the user namespace of a remapped container, and the network namespace that is to
    belong to it: added to ``made``."""
    linux = request.spec["linux"]
    mapping = userns.of_spec(linux)
    if mapping is None:
        return None
    fresh = any(e["type"] == "network" and not e.get("path") for e in linux["namespaces"])
    made.update(userns.make(mapping, ["network"] if fresh else []))
    return bundle.Remapped(mapping, made["user"])


def _network(
    request: KeeperRequest, on_network: Callable[[int], None], made: dict[str, int]
) -> None:
    """Make the network namespace, unless it is another's or ``made`` already, and what is in it."""
    entry = next((e for e in request.spec["linux"]["namespaces"] if e["type"] == "network"), None)
    if entry is None or entry.get("path"):
        fd = os.open(entry["path"] if entry else "/proc/self/ns/net", _RDONLY)
        try:
            on_network(fd)
        finally:
            os.close(fd)
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if not child:
        ours.close()
        _hold_network(theirs, request.interfaces, made.get("network", -1))
    theirs.close()
    try:
        with ours:
            _expect(ours, b"N")
            if "network" not in made:
                made["network"] = os.open(f"/proc/{child}/ns/net", _RDONLY)
            for interface in request.interfaces:
                interfaces.create_host_side(interface, made["network"])
            on_network(made["network"])
            ours.send(b"G")
            _expect(ours, b"D")
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(child, 0)


def _expect(sock: socket.socket, wanted: bytes) -> None:
    answer = sock.recv(4096)
    if answer != wanted:
        raise StartError(answer.decode(errors="replace") or "the network could not be made", 125)


def _hold_network(
    sock: socket.socket, links: Sequence[interfaces.Interface], existing: int
) -> None:
    """In a child: be in the new namespace until it is complete.  Never returns."""
    try:
        if existing >= 0:
            namespaces.setns(existing, namespaces.CLONE_NEWNET)
        else:
            namespaces.unshare(namespaces.CLONE_NEWNET)
        sock.send(b"N")
        if sock.recv(1) == b"G":
            interfaces.configure_inside(links)
            sock.send(b"D")
    except (OSError, ValueError) as failure:
        sock.send(describe(failure).encode()[:4096])
    finally:
        os._exit(0)


def _error(prefix: str, failure: Exception, code: int) -> StartError:
    if isinstance(failure, StartError):
        # Of an exec that cannot be done Docker knows two codes only.
        return StartError(prefix + str(failure), max(failure.exit_code, code))
    return StartError(prefix + describe(failure), code)
