"""``exec``: a further process in a container's namespaces."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any, NamedTuple

from sampan.linux import namespaces, pty
from sampan.linux.namespaces import CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER
from sampan.linux.openat2 import open_in_root
from sampan.linux.syscalls import AT_FDCWD
from sampan.runtime import cgroups, confine, userns
from sampan.runtime.guard import Guard
from sampan.runtime.oci import bundle, child, create, listeners, manner, records, terminal, waiting
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import Options
from sampan.runtime.sync import ChildSide, KeeperSide, describe

_KINDS = ("user", "mount", "pid", "ipc", "uts", "network", "cgroup", "time")


class Plan(NamedTuple):
    """What the child is to do; ``container`` is a pidfd of the first process."""

    id: str
    process: dict[str, Any]
    confinement: confine.Preparation
    container: int
    flags: int
    host_proc: int
    mapping: userns.Mapping | None


def execute(root: str, options: Options) -> int:
    """``exec``; the process's exit code, or 0 when detached.  Raises OciError, whose code is no
    usual one of a program."""
    try:
        return _execute(root, options)
    except OciError as failure:
        raise OciError(f"exec failed: {failure}", 255) from None


def _execute(root: str, options: Options) -> int:
    kept = create.preserved(options)
    if not options.arguments:
        raise OciError("the container's ID is missing")
    record = records.read(root, options.arguments[0])
    status = record.status()
    if status == "paused" and not options.flag("ignore-paused"):
        raise OciError("cannot exec in a paused container (use --ignore-paused to override)")
    if status == "stopped":
        raise OciError("cannot exec in a stopped container")
    config = record.config()
    wanted = _process(config, options)
    detached = options.flag("detach")
    has_terminal = bool(wanted.get("terminal"))
    terminal.check(
        has_terminal,
        options.text("console-socket"),
        detached or bool(options.text("console-socket")),
    )
    if not detached:
        waiting.hold_signals()
    try:
        pid, handle, master = _start(record, config, wanted, kept, options.text("cgroup"))
    except (OSError, ValueError) as failure:
        raise OciError(describe(failure)) from None
    if master is not None and options.text("console-socket"):
        terminal.hand_over(options.text("console-socket"), master)
        master = None
    if options.text("pid-file"):
        create.write_pid(options.text("pid-file"), pid)
    if detached:
        return 0
    return waiting.wait(pid, handle, master)


def _process(config: dict[str, Any], options: Options) -> dict[str, Any]:
    """The process that is asked for: a file, or the container's own with changes."""
    if options.text("process"):
        try:
            with open(options.text("process"), encoding="utf-8") as file:
                wanted: dict[str, Any] = json.load(file)
            bundle.check_process(wanted)
        except (OSError, ValueError) as failure:
            raise OciError(f"{options.text('process')}: {failure}") from None
        return wanted
    if len(options.arguments) < 2:
        raise OciError("process args cannot be empty")
    wanted = {**config["process"], "args": options.arguments[1:]}
    wanted["terminal"] = options.flag("tty")
    wanted["env"] = [*(wanted.get("env") or ()), *options.all("env")]
    user = dict(wanted.get("user") or {})
    if options.given("user"):
        uid, _, gid = options.text("user").partition(":")
        if not uid.isdecimal() or (gid and not gid.isdecimal()):
            raise OciError(f"--user wants UID[:GID] in numbers, not {options.text('user')!r}")
        user = {**user, "uid": int(uid), **({"gid": int(gid)} if gid else {})}
    user["additionalGids"] = [*(user.get("additionalGids") or ()), *options.all("additional-gids")]
    wanted["user"] = user
    if options.given("cwd"):
        wanted["cwd"] = options.text("cwd")
    if options.given("no-new-privs"):
        wanted["noNewPrivileges"] = options.flag("no-new-privs")
    if options.text("apparmor"):
        wanted["apparmorProfile"] = options.text("apparmor")
    if options.text("process-label"):
        wanted["selinuxLabel"] = options.text("process-label")
    for capability in options.all("cap"):
        sets = {name: list(held or ()) for name, held in (wanted.get("capabilities") or {}).items()}
        for name in ("bounding", "effective", "permitted"):
            sets.setdefault(name, []).append(capability)
        wanted["capabilities"] = sets
    return wanted


def _start(
    record: records.Record,
    config: dict[str, Any],
    wanted: dict[str, Any],
    kept: int,
    below: str,
) -> tuple[int, int, int | None]:
    """(process number, pidfd, terminal's master) of the executed program."""
    confinement = create.prepare(wanted, config.get("linux") or {}, kept)
    container = os.pidfd_open(record.pid)
    if not records.alive(record.pid, record.start):
        raise OciError("cannot exec in a stopped container")
    flags = 0
    for kind in _KINDS:
        name = namespaces.TYPES[kind][1]
        theirs_ns = os.stat(f"/proc/{record.pid}/ns/{name}").st_ino
        if theirs_ns != os.stat(f"/proc/self/ns/{name}").st_ino:
            flags |= namespaces.TYPES[kind][0]
    fds = {"pid": namespaces.open_namespace(record.pid, "pid")}
    if flags & CLONE_NEWTIME:
        fds["time"] = namespaces.open_namespace(record.pid, "time")
    mapping = userns.of_process(record.pid)
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flags &= ~(CLONE_NEWPID | CLONE_NEWTIME)
    pid = create.fork_into(fds, False, None)
    if not pid:
        talk = ChildSide(theirs)
        plan = Plan(record.id, wanted, confinement, container, flags, proc, mapping)
        child.reporting(talk, lambda: _enter(plan, talk))
    theirs.close()
    os.close(container)
    os.close(proc)
    handle = os.pidfd_open(pid)
    side = KeeperSide(ours)
    side.on_listener = listeners.on_listener(record, config, pid, handle, "running")
    try:
        path = record.group_path + (f"/{below.strip('/')}" if below else "")
        cgroups.group(path).add(pid)
        side.go()
        side.wait_for_exec()
    except Exception as failure:
        reported = side.report(failure)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.waitpid(pid, 0)
        if hasattr(reported, "exit_code"):
            raise OciError(str(reported)) from None
        raise reported from None
    finally:
        ours.close()
    return pid, handle, side.terminal


def _enter(plan: Plan, talk: ChildSide) -> None:
    os.setsid()
    guard = Guard()
    manner.pin(plan.process, "initial")
    talk.wait_for_go()
    manner.pin(plan.process, "final")
    child.own_settings(plan.host_proc, plan.process)
    # The user namespace comes last: the streams are not its root's yet.
    if plan.flags & ~CLONE_NEWUSER:
        namespaces.setns(plan.container, plan.flags & ~CLONE_NEWUSER)
    guard.inside()
    root = open_in_root(AT_FDCWD, "/", os.O_RDONLY | os.O_DIRECTORY)
    who = confine.identity(root, plan.process)
    if plan.process.get("terminal"):
        ptmx = open_in_root(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        confine.adopt_terminal(*pty.open_pair(ptmx), plan.process, who, talk, plan.mapping)
    else:
        child.adopt_streams(who, plan.mapping)
    os.close(root)
    confine.apply_limits(plan.confinement, talk.warn)
    manner.apply(plan.process)
    if plan.mapping:
        userns.join(plan.container)
    child.take_keyring(plan.id, talk)
    confine.start_program(plan.confinement, who, confine.environment(plan.confinement, who), talk)
