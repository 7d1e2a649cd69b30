"""``create`` and ``run``: make a container of a bundle."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import Any, NamedTuple

from sampan.linux import namespaces, process
from sampan.linux.namespaces import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME
from sampan.runtime import cgroups, confine
from sampan.runtime.devices import device_rules
from sampan.runtime.errors import StartError
from sampan.runtime.oci import bundle as bundles
from sampan.runtime.oci import child, hooks, listeners, notify, records, remapping, terminal
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import Options
from sampan.runtime.rootfs import ID_MAP
from sampan.runtime.sync import KeeperSide, describe

_RDONLY = os.O_RDONLY | os.O_CLOEXEC


class Made(NamedTuple):
    """A container whose first process waits at the gate (or runs); ``handle`` is a pidfd."""

    record: records.Record
    handle: int
    master: int | None
    config: dict[str, Any]
    ready: socket.socket | None
    """Where it tells that it is ready, if somebody wants to know."""


class _Side(KeeperSide):
    """The command's end of the conversation with the first process."""

    def wait_for(self, wanted: bytes) -> bytes:
        """The next of the kinds ``wanted``, or empty at the end.  Raises StartError."""
        while kind := self._next():
            if kind in wanted:
                return kind
        return b""

    def answer(self, state: bytes) -> None:
        try:
            self._socket.send(b"G" + state)
        except BrokenPipeError:
            pass  # the child has failed; its report is read next


def create(root: str, options: Options) -> int:
    """``create``: the first process waits at its gate when this returns."""
    made = make(root, options, detached=True, gated=True)
    finish(made, options)
    return 0


def finish(made: Made, options: Options) -> None:
    """Hand over the terminal and tell the process number."""
    if made.master is not None and options.text("console-socket"):
        terminal.hand_over(options.text("console-socket"), made.master)
    if options.text("pid-file"):
        write_pid(options.text("pid-file"), made.record.pid)


def write_pid(path: str, pid: int) -> None:
    """Write so that a reader sees the whole number."""
    temporary = os.path.join(os.path.dirname(path) or ".", f".{os.path.basename(path)}")
    with open(temporary, "w", encoding="ascii") as file:
        file.write(str(pid))
    os.rename(temporary, path)


def preserved(options: Options) -> int:
    """How many descriptors from 3 on the program gets.  Raises OciError for one not open."""
    count = options.number("preserve-fds")
    try:
        count += int(os.environ.get("LISTEN_FDS") or 0)
    except ValueError:
        raise OciError("LISTEN_FDS in the environment is not a number") from None
    for fd in range(3, 3 + count):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            raise OciError(f"file descriptor {fd} to be preserved is not open") from None
    return count


def make(root: str, options: Options, *, detached: bool, gated: bool) -> Made:
    """Make the container.  Raises OciError; nothing of it is left then."""
    if len(options.arguments) != 1:
        raise OciError("exactly one argument is wanted: the container's ID")
    identity = options.arguments[0]
    kept = preserved(options)
    loaded = bundles.load(options.text("bundle", "."), options.text("config", "config.json"))
    config = loaded.config
    wants_terminal = bool(config["process"].get("terminal"))
    terminal.check(wants_terminal, options.text("console-socket"), detached)
    directory = records.reserve(root, identity)
    opened: list[int] = []
    try:
        return _make(directory, identity, loaded, options, kept, gated, opened)
    except (StartError, OSError, ValueError) as failure:
        records.remove(directory)
        text = describe(failure) if not isinstance(failure, StartError) else str(failure)
        raise OciError(f"unable to start container process: {text}") from None
    except BaseException:
        records.remove(directory)
        raise
    finally:
        for fd in opened:
            os.close(fd)


def _make(
    directory: str,
    identity: str,
    loaded: bundles.Bundle,
    options: Options,
    kept: int,
    gated: bool,
    opened: list[int],
) -> Made:
    config = notify.prepare(directory, _with_mappings(loaded.config, opened))
    linux = config.get("linux") or {}
    group = group_of(config, identity, options)
    if group.pids():
        raise ValueError(f"the control group {group.path} is in use")
    new, fresh_pid, fds = _namespaces(linux, opened)
    remapped, new, fds = remapping.arrange(linux, new, fds, opened)
    confinement = prepare(config["process"], linux, kept)
    gate = -1
    if gated:
        from sampan.linux import title

        title.locate()
        gate = _open_gate(directory)
    plan = child.Plan(
        identity,
        config,
        loaded.rootfs,
        confinement,
        new,
        tuple((fd, namespaces.TYPES[kind][0]) for kind, fd in fds if kind not in ("pid", "time")),
        group.mount_points(),
        gate,
        options.flag("no-pivot"),
        not options.flag("no-new-keyring"),
        remapped,
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork_into(dict(fds), fresh_pid, _time_offsets(linux))
    if not pid:
        child.run(plan, theirs)
    theirs.close()
    if gate >= 0:
        os.close(gate)
    handle = os.pidfd_open(pid)
    side = _Side(ours)
    record = new_record(directory, identity, pid, loaded, group.path)
    ready = None if gated else notify.bind(record)
    side.on_listener = listeners.on_listener(record, config, pid, handle, "creating")
    try:
        master = _complete(side, record, config, group, gated)
        records.write(record, loaded.raw)
    except BaseException as failure:
        reported = side.report(failure) if isinstance(failure, Exception) else failure
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(handle)
        try:
            group.delete()
        except OSError:
            pass  # the failure itself is what is to be told
        raise reported from None
    finally:
        ours.close()
    return Made(record, handle, master, config, ready)


def group_of(config: dict[str, Any], identity: str, options: Options) -> cgroups.Group:
    """The container's control group, not made yet.  Raises ValueError for a bad path."""
    linux = config.get("linux") or {}
    if options.flag("systemd-cgroup"):
        from sampan.runtime.oci import scopes

        return scopes.group(linux, identity, config.get("annotations") or {})
    path = str(linux.get("cgroupsPath") or f"/sampan-oci/{identity}")
    if ":" in path:
        raise ValueError(f"linux.cgroupsPath {path!r} is systemd's form: it needs --systemd-cgroup")
    return cgroups.group(path)


def new_record(
    directory: str, identity: str, pid: int, loaded: bundles.Bundle, cgroup: str
) -> records.Record:
    """The record of a container whose first process has just been made."""
    return records.Record(
        directory,
        identity,
        pid,
        process.start_time(pid),
        loaded.directory,
        loaded.rootfs,
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        cgroup,
        loaded.config.get("annotations") or {},
    )


def _with_mappings(config: dict[str, Any], opened: list[int]) -> dict[str, Any]:
    """The configuration with a user namespace for each mount that has mappings."""
    mounts = config.get("mounts") or ()
    if not any(entry.get("uidMappings") for entry in mounts):
        return config
    from sampan.linux.idmap import mapping_namespace

    found = []
    for entry in mounts:
        if entry.get("uidMappings"):
            users = mapping_namespace(
                *(
                    [(int(m["containerID"]), int(m["hostID"]), int(m["size"])) for m in entry[name]]
                    for name in ("uidMappings", "gidMappings")
                )
            )
            opened.append(users)
            entry = {**entry, ID_MAP: users}
        found.append(entry)
    return {**config, "mounts": found}


def _complete(
    side: _Side,
    record: records.Record,
    config: dict[str, Any],
    group: cgroups.Group,
    gated: bool,
) -> int | None:
    """Bring the child to its gate (or its program); its terminal's master, if it has one."""
    resources = (config.get("linux") or {}).get("resources") or {}
    group.create({**resources, "devices": allowed_devices(resources.get("devices") or ())})
    group.add(record.pid)
    own_hooks = config.get("hooks") or {}
    state = json.dumps(record.document("creating")).encode()
    side.answer(state)
    kind = side.wait_for(b"MRX" if gated else b"MX")
    if kind == b"M":
        for name in ("prestart", "createRuntime"):
            hooks.run(own_hooks.get(name) or (), name, state, _hook_failed)
        side.answer(json.dumps(record.document("created")).encode())
        kind = side.wait_for(b"RX")
    if kind == b"X":
        # Executing: the end of the connection is the success.
        while side.wait_for(b"X"):
            pass
    elif not kind:
        raise StartError("the process died while it was being set up", 125)
    return side.terminal


def _hook_failed(problem: str) -> None:
    raise StartError(problem, 125)


def allowed_devices(rules: Any) -> list[dict[str, Any]]:
    """The bundle's rules and, as the specification says, the devices that are always there."""
    given = list(rules)
    return [*given, *device_rules()[1:]] if given else device_rules()


def prepare(spec_process: dict[str, Any], linux: dict[str, Any], kept: int) -> confine.Preparation:
    """The confinement of a process of the container.  Raises ValueError."""
    profile = linux.get("seccomp")
    program, flags, listens = b"", (), False
    if profile:
        from sampan.runtime import seccomp

        bounding = (spec_process.get("capabilities") or {}).get("bounding") or ()
        listens = seccomp.notifies(profile)
        program = seccomp.compile_once(profile, bounding, listener=True)
        flags = profile.get("flags") or ()
    prepared = confine.prepare(spec_process, program, flags)
    return prepared._replace(kept=kept, listens=listens)


def _namespaces(
    linux: dict[str, Any], opened: list[int]
) -> tuple[int, bool, list[tuple[str, int]]]:
    """(flags of the new ones but for pid and time, whether pid is new, those to be joined)."""
    flags, fresh_pid, fds = 0, False, []
    for entry in linux.get("namespaces") or ():
        kind = str(entry.get("type"))
        if kind not in namespaces.TYPES:
            raise ValueError(f"unknown namespace type {kind!r}")
        if entry.get("path"):
            fd = os.open(str(entry["path"]), _RDONLY)
            opened.append(fd)
            fds.append((kind, fd))
        elif kind == "pid":
            fresh_pid = True
        else:
            flags |= namespaces.TYPES[kind][0]
    if not flags & CLONE_NEWNS and not any(kind == "mount" for kind, _ in fds):
        raise ValueError("linux.namespaces: a container needs a mount namespace of its own")
    # The mount namespace last: paths mean other files then.
    fds.sort(key=lambda item: item[0] == "mount")
    return flags, fresh_pid, fds


def _time_offsets(linux: dict[str, Any]) -> str | None:
    """The content of ``timens_offsets`` for a new time namespace; None: there is none."""
    kinds = linux.get("namespaces") or ()
    if not any(entry.get("type") == "time" and not entry.get("path") for entry in kinds):
        return None
    offsets = linux.get("timeOffsets") or {}
    return "".join(
        f"{clock} {int(offset.get('secs', 0))} {int(offset.get('nanosecs', 0))}\n"
        for clock, offset in offsets.items()
    )


def fork_into(fds: dict[str, int], fresh_pid: bool, offsets: str | None) -> int:
    """Fork a child into process-number and time namespaces, which only children can enter.

    The caller stays where it is, but for its further children.
    """
    if offsets is not None:
        namespaces.unshare(CLONE_NEWTIME)
        if offsets:
            with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
                file.write(offsets)
    elif "time" in fds:
        namespaces.setns(fds["time"], CLONE_NEWTIME)
    own = os.open("/proc/self/ns/pid", _RDONLY)
    try:
        if fresh_pid:
            namespaces.unshare(CLONE_NEWPID)
        elif "pid" in fds:
            namespaces.setns(fds["pid"], CLONE_NEWPID)
        pid = os.fork()
        if pid:
            namespaces.setns(own, CLONE_NEWPID)
        return pid
    finally:
        os.close(own)


def _open_gate(directory: str) -> int:
    """A listening socket in the record; by the descriptor, as a path is limited to 108 bytes."""
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gate.bind(f"/proc/self/fd/{place}/{records.GATE}")
        gate.listen(1)
        return gate.detach()
    finally:
        os.close(place)
