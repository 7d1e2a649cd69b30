"""The child that becomes a container's first process.

:func:`run` is called in the forked child, already the first process of the new process-number
namespace if there is one.  It makes the other namespaces, builds the root file system while the
keeper makes control groups and network, and ends in execve.  It never returns.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from sampan.linux import namespaces, process
from sampan.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, make_directories, openat2
from sampan.runtime import ahead, confine, interfaces, parcel, reaper, supported, userns
from sampan.runtime.guard import Forbidden, Guard
from sampan.runtime.rootfs import RootFs
from sampan.runtime.stage import ROOT, Stage
from sampan.runtime.sync import ChildSide, describe
from sampan.runtime.types import KeeperRequest
from sampan.runtime.users import UnknownUser

_SETUP_FAILED = 125


class Remapped(NamedTuple):
    """The user namespace that the process is to enter in the end."""

    mapping: userns.Mapping
    user: int
    own_network: bool
    """Whether the network namespace is a new one that belongs to it."""


class Plan(NamedTuple):
    """What the child is to make; ``new_namespaces`` are flags without the process-number one."""

    request: KeeperRequest
    confinement: confine.Preparation
    new_namespaces: int
    joined: tuple[tuple[int, int], ...]
    """(descriptor, flag) of namespaces to enter, the mount namespace last."""
    cgroup_points: dict[str, str]
    remapped: Remapped | None = None


Stdio = tuple[int, ...] | None
"""The process's three streams; None: it gets a terminal."""


def run(plan: Plan, sock: socket.socket, stdio: Stdio) -> None:
    """Become the container's first process.  Never returns."""
    sync = ChildSide(sock)
    _reporting(sync, lambda: _run(plan, sync, stdio, _enter(), None))


def run_spare(sock: socket.socket, decode: Callable[[bytes], Plan], own_network: bool) -> None:
    """As :func:`run` for a child that was forked before its plan is known.

    The plan has all of :data:`~sampan.runtime.stage.NAMESPACES` among its new ones, and most likely
    a network namespace if ``own_network`` is expected; ``decode`` makes it of the message that comes
    with the streams.  Never returns.
    """
    sync = ChildSide(sock)

    def go() -> None:
        guard = _enter()
        lesson = ahead.Lesson(ahead.Role.FIRST)
        stage = Stage(own_network)
        received = parcel.Receiver(sock).receive()
        if received is None:
            os._exit(0)
        message, fds = received
        with stage.on_host():
            plan = decode(message)
        _run(plan, sync, tuple(fds) or None, guard, lesson, stage)

    _reporting(sync, go)


def _enter() -> Guard:
    os.setsid()
    os.umask(0)
    return Guard()


def _reporting(sync: ChildSide, go: Callable[[], None]) -> None:
    try:
        go()
    except (confine.Setup, UnknownUser, OSError, ValueError, KeyError) as failure:
        sync.fail(describe(failure), _SETUP_FAILED)
    except Forbidden as failure:
        sync.fail(str(failure), _SETUP_FAILED)
    except BaseException as failure:
        sync.fail(f"internal error: {failure!r}", _SETUP_FAILED)
    finally:
        os._exit(1)


def _run(
    plan: Plan,
    sync: ChildSide,
    stdio: Stdio,
    guard: Guard,
    lesson: ahead.Lesson | None,
    stage: Stage | None = None,
) -> None:
    spec = plan.request.spec
    linux = spec.get("linux") or {}
    for fd, flag in plan.joined:
        namespaces.setns(fd, flag)
        os.close(fd)
    late = namespaces.CLONE_NEWCGROUP
    own_network = bool(plan.new_namespaces & namespaces.CLONE_NEWNET)
    if stage is None:
        namespaces.unshare(plan.new_namespaces & ~late)
    elif own_network:
        stage.make_network()
    elif not plan.joined:
        stage.use_host_network()
    sync.namespaces_ready()

    remapped = plan.remapped
    mapping = remapped.mapping if remapped else None
    if remapped:
        userns.make_files_as_root(remapped.mapping)
    root = RootFs(
        plan.request.rootfs,
        ROOT if stage else plan.request.run_dir,
        str(linux.get("rootfsPropagation") or ""),
        bind_devices=False,
        mapping=mapping,
        user=remapped.user if remapped else -1,
        on_host=stage.on_host if stage else None,
    )
    entries = spec.get("mounts") or ()
    root.open_sources(entries)
    furnished = stage.furnish(root, spec, own_network) if stage else ()
    cgroup_mounts = []
    for entry in entries:
        if entry.get("type") in ("cgroup", "cgroup2"):
            cgroup_mounts.append(entry)
        elif entry["destination"] not in furnished:
            root.add(entry)
    if not furnished:
        root.add_default_devices()
    root.add_devices(linux.get("devices") or ())

    who = confine.identity(root.fd, spec["process"])
    os.close(make_directories(root.fd, str(spec["process"].get("cwd") or "/")))
    # The keeper has made the control groups and the network meanwhile.
    sync.wait_for_go()
    if plan.new_namespaces & late:
        namespaces.unshare(late)
    groups = stage.groups if stage else None
    for entry in cgroup_mounts:
        root.add_cgroup(entry, plan.cgroup_points, groups)
        groups = None
    if own_network or (remapped and remapped.own_network):
        with root.on_host():
            interfaces.configure_inside(plan.request.interfaces)

    if stdio is None:
        master, slave = root.open_console()
        confine.adopt_terminal(master, slave, spec["process"], who, sync, mapping)
    else:
        confine.adopt_pipes(stdio, who, mapping)
    if spec.get("hostname"):
        process.set_hostname(str(spec["hostname"]))
    if spec.get("domainname"):
        process.set_domainname(str(spec["domainname"]))
    with userns.settings_as_root_of(mapping):
        _sysctls(root.proc, linux.get("sysctl") or {})
    _own_settings(root.proc, spec["process"], sync)
    persona = supported.personality(spec)
    if persona is not None:
        process.set_personality(persona)
    confine.apply_limits(plan.confinement, sync.warn)
    hidden = linux.get("maskedPaths") or ()
    if not furnished:
        root.make_read_only(linux.get("readonlyPaths") or ())
    elif "/sys" in furnished:
        hidden = ()
    else:
        hidden = [path for path in hidden if path.startswith("/sys/")]
    root.mask(hidden)
    if stage:
        stage.leave()
    root.finish(read_only=bool((spec.get("root") or {}).get("readonly")))
    root.pivot()
    guard.inside()
    if remapped:
        userns.enter(remapped.user)
    try:
        process.new_session_keyring(f"_ses.{plan.request.id}")
    except OSError:
        sync.warn("no session keyring of its own: the host refuses keyrings")
    environ = confine.environment(plan.confinement, who)
    if lesson:
        lesson.end()
    if plan.request.init:
        reaper.run(plan.confinement, who, environ, sync)
    else:
        confine.start_program(plan.confinement, who, environ, sync)


def _sysctls(proc: int, sysctls: dict[str, str]) -> None:
    for name, value in sysctls.items():
        if proc < 0:
            raise confine.Setup(f"sysctl {name} needs procfs mounted on /proc")
        path = "sys/" + name.replace(".", "/") if "/" not in name else "sys/" + name
        try:
            fd = openat2(proc, path, os.O_WRONLY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
            try:
                os.write(fd, str(value).encode())
            finally:
                os.close(fd)
        except OSError as failure:
            text = os.strerror(failure.errno or 0).lower()
            raise confine.Setup(f"cannot set sysctl {name} to {value!r}: {text}") from None


def _own_settings(proc: int, spec_process: dict[str, Any], sync: ChildSide) -> None:
    """What a process sets by writing below its own /proc/self: badness, labels."""
    score = spec_process.get("oomScoreAdj")
    profile = spec_process.get("apparmorProfile")
    label = spec_process.get("selinuxLabel")
    if score is not None and not _write_self(proc, "oom_score_adj", str(score)):
        sync.warn(f"oom_score_adj {score} is not permitted on this host")
    if profile and not (
        _write_self(proc, "attr/apparmor/exec", f"exec {profile}")
        or _write_self(proc, "attr/exec", f"exec {profile}")
    ):
        raise confine.Setup(f"apparmor failed to apply profile {profile!r}: not available here")
    if label and not _write_self(proc, "attr/exec", str(label)):
        raise confine.Setup(f"SELinux label {label!r} cannot be set: not available here")


def _write_self(proc: int, name: str, value: str) -> bool:
    if proc < 0:
        return False
    try:
        # The process's own number in its namespace: /proc/self would be a link.
        fd = openat2(
            proc,
            f"{os.getpid()}/{name}",
            os.O_WRONLY,
            resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
        )
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
