"""The first process of a container made by ``sampan-oci``, until its execve.

Differs from the engine's (:mod:`sampan.runtime.init`) in what a bundle has and an image has not:
hooks, a root file system that is a directory, namespaces joined without a keeper, the gate.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from sampan.linux import lsm, namespaces, process
from sampan.linux import mount as mounts
from sampan.linux.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    make_directories,
    openat2,
)
from sampan.runtime import confine, supported, sysctls, userns
from sampan.runtime.guard import Forbidden, Guard
from sampan.runtime.oci import hooks, manner
from sampan.runtime.oci.remapping import Remapped
from sampan.runtime.rootfs import RootFs
from sampan.runtime.sync import ChildSide, describe
from sampan.runtime.users import Identity, UnknownUser

_SETUP_FAILED = 125
_LARGEST = 65536
_MS_MOVE = 8192
_NULL = os.makedev(1, 3)
_LABELLED = frozenset({"tmpfs", "devpts", "ramfs"})


class Root(NamedTuple):
    """A directory of the host as a mount."""

    type: str
    source: str
    options: list[str]


class Plan(NamedTuple):
    """What the child is to make; ``gate`` is the listening socket, -1: execute at once."""

    id: str
    config: dict[str, Any]
    rootfs: str
    confinement: confine.Preparation
    new_namespaces: int
    joined: tuple[tuple[int, int], ...]
    cgroup_points: dict[str, str]
    gate: int
    no_pivot: bool
    keyring: bool
    remapped: Remapped | None


class Conversation(ChildSide):
    """The child's end of its conversation with the command that makes it.

    Beside what :class:`ChildSide` says: ``M`` the root file system is made, ``R`` ready at the
    gate.  There is no ``N``: the first ``G`` comes when the control group is made, and like the
    one that answers ``M`` carries the container's state for hooks.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._sock = sock

    def wait(self) -> bytes:
        """The next answer; the process ends if there will be none."""
        answer = self._sock.recv(_LARGEST)
        if answer[:1] != b"G":
            os._exit(1)
        return answer[1:]

    def mounted(self) -> bytes:
        self._sock.send(b"M")
        return self.wait()

    def ready(self) -> None:
        self._sock.send(b"R")


def run(plan: Plan, sock: socket.socket) -> None:
    """Never returns."""
    talk = Conversation(sock)
    reporting(talk, lambda: _run(plan, talk))


def reporting(talk: ChildSide, go: Callable[[], None]) -> None:
    """Tell the other side of any failure; never returns."""
    try:
        go()
    except confine.Setup as failure:
        message, code = (*failure.args, _SETUP_FAILED)[:2]
        talk.fail(str(message), code)
    except (UnknownUser, OSError, ValueError, KeyError) as failure:
        talk.fail(describe(failure), _SETUP_FAILED)
    except Forbidden as failure:
        talk.fail(str(failure), _SETUP_FAILED)
    except BaseException as failure:
        talk.fail(f"internal error: {failure!r}", _SETUP_FAILED)
    finally:
        os._exit(1)


def _run(plan: Plan, talk: Conversation) -> None:
    config, linux = plan.config, plan.config.get("linux") or {}
    own_hooks = config.get("hooks") or {}
    os.setsid()
    os.umask(0)
    guard = Guard()
    for fd, flag in plan.joined:
        namespaces.setns(fd, flag)
        os.close(fd)
    namespaces.unshare(plan.new_namespaces & ~namespaces.CLONE_NEWCGROUP)
    mapping = plan.remapped.mapping if plan.remapped else None
    if mapping:
        userns.make_files_as_root(mapping)
    root = RootFs(
        [Root("bind", plan.rootfs, ["rbind"])],
        plan.rootfs,
        str(linux.get("rootfsPropagation") or ""),
        bind_devices=False,
        mapping=mapping,
        user=plan.remapped.user if plan.remapped else -1,
        idmap_root=False,
    )
    state = b""
    for entry in config.get("mounts") or ():
        entry = _labelled(entry, str(linux.get("mountLabel") or ""))
        if entry.get("type") in ("cgroup", "cgroup2"):
            state = state or _join_group(plan, talk)
            root.add_cgroup(entry, plan.cgroup_points)
        else:
            root.add(entry)
    state = state or _join_group(plan, talk)
    root.add_default_devices()
    root.add_devices(linux.get("devices") or ())
    who = confine.identity(root.fd, config["process"])
    os.close(make_directories(root.fd, str(config["process"].get("cwd") or "/")))
    if own_hooks.get("prestart") or own_hooks.get("createRuntime"):
        state = talk.mounted()
    hooks.run(own_hooks.get("createContainer") or (), "createContainer", state, _fail)

    if config["process"].get("terminal"):
        confine.adopt_terminal(*root.open_console(), config["process"], who, talk, mapping)
    else:
        _own_null(root)
        adopt_streams(who, mapping)
    _settings(plan, root, talk)
    root.make_read_only(linux.get("readonlyPaths") or ())
    root.mask(linux.get("maskedPaths") or ())
    root.finish(read_only=bool((config.get("root") or {}).get("readonly")))
    if plan.no_pivot:
        _move(root)
    else:
        root.pivot()
    guard.inside()
    if plan.remapped:
        userns.enter(plan.remapped.user)
    if plan.keyring:
        take_keyring(plan.id, talk)
    environ = confine.environment(plan.confinement, who)
    confine.find_program(plan.confinement, environ)
    caller: ChildSide = talk
    if plan.gate >= 0:
        caller = _wait_at_gate(plan.gate, talk)
    reporting(caller, lambda: _start(plan, who, environ, state, caller))


def _join_group(plan: Plan, talk: Conversation) -> bytes:
    """Wait until the control group is made and we are in it, which the command sees to meanwhile;
    the container's state for hooks."""
    state = talk.wait()
    namespaces.unshare(plan.new_namespaces & namespaces.CLONE_NEWCGROUP)
    return state


def _labelled(entry: dict[str, Any], label: str) -> dict[str, Any]:
    """The mount with SELinux's label for its files, where the file system takes one."""
    if not label or entry.get("type") not in _LABELLED:
        return entry
    return {**entry, "options": [*(entry.get("options") or ()), f'context="{label}"']}


def _start(
    plan: Plan, who: Identity, environ: dict[bytes, bytes], state: bytes, caller: ChildSide
) -> None:
    found = (plan.config.get("hooks") or {}).get("startContainer") or ()
    hooks.run(found, "startContainer", state, _fail)
    confine.start_program(plan.confinement, who, environ, caller)


def _fail(problem: str) -> None:
    raise confine.Setup(problem)


def _settings(plan: Plan, root: RootFs, talk: ChildSide) -> None:
    config, linux = plan.config, plan.config.get("linux") or {}
    if config.get("hostname"):
        process.set_hostname(str(config["hostname"]))
    if config.get("domainname"):
        process.set_domainname(str(config["domainname"]))
    with userns.settings_as_root_of(plan.remapped.mapping if plan.remapped else None):
        for name, value in (linux.get("sysctl") or {}).items():
            _sysctl(root.proc, str(name), str(value))
    own_settings(root.proc, config["process"])
    persona = supported.personality(config)
    if persona is not None:
        process.set_personality(persona)
    confine.apply_limits(plan.confinement, talk.warn)
    manner.apply(config["process"])


def take_keyring(identity: str, talk: ChildSide) -> None:
    """A session keyring of its own."""
    try:
        process.new_session_keyring(f"_ses.{identity}")
    except OSError:
        talk.warn("no session keyring of its own: the host refuses keyrings")


def _own_null(root: RootFs) -> None:
    """Streams that are the host's null device become the container's: nothing that is done to
    them, by whatever rights, is done to the host's."""
    if root.dev < 0:
        return
    for fd in (0, 1, 2):
        if os.fstat(fd).st_rdev != _NULL:
            continue
        own = os.open("null", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root.dev)
        if os.fstat(own).st_rdev == _NULL:
            os.dup2(own, fd)
        os.close(own)


def adopt_streams(who: Identity, mapping: userns.Mapping | None) -> None:
    """Give our streams to the user, who may have to open /dev/stdout again; as runc does, not
    where they are the host's null device or lie on a file system that has no such owners."""
    uid = mapping.uid(who.uid) if mapping else who.uid
    for fd in (1, 2):
        found = os.fstat(fd)
        if found.st_uid == uid or found.st_rdev == _NULL:
            continue
        try:
            os.fchown(fd, uid, -1)
        except OSError as failure:
            if failure.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise


def _sysctl(proc: int, name: str, value: str) -> None:
    if proc < 0:
        raise confine.Setup(f"sysctl {name} needs procfs mounted on /proc")
    path = "sys/" + sysctls.path_of(name)
    try:
        write_below(proc, path, value)
    except OSError as failure:
        text = os.strerror(failure.errno or 0).lower()
        raise confine.Setup(f"cannot set sysctl {name} to {value!r}: {text}") from None


def own_settings(proc: int, spec_process: dict[str, Any]) -> None:
    """What a process sets by writing below its own number of a procfs."""
    own = os.readlink("self", dir_fd=proc) if proc >= 0 else ""
    for field, name, prefix in (
        ("oomScoreAdj", "oom_score_adj", ""),
        ("apparmorProfile", "attr/exec", "exec "),
        ("selinuxLabel", "attr/exec", ""),
    ):
        value = spec_process.get(field)
        if value is None or value == "" or (field == "apparmorProfile" and not lsm.has_apparmor()):
            continue  # a profile was refused before, but for "unconfined", which all are here
        if proc < 0:
            raise confine.Setup(f"process.{field} needs procfs mounted on /proc")
        try:
            write_below(proc, f"{own}/{name}", f"{prefix}{value}")
        except OSError as failure:
            text = os.strerror(failure.errno or 0).lower()
            raise confine.Setup(f"cannot set process.{field} to {value!r}: {text}") from None


def write_below(directory: int, path: str, value: str) -> None:
    """Write a file that no link leads to and nothing is mounted over."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    fd = openat2(directory, path, os.O_WRONLY, resolve=resolve)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _move(root: RootFs) -> None:
    """Without pivot_root, for a host whose root is a ramdisk: the old root stays hidden below."""
    os.fchdir(root.fd)
    mounts.mount(".", "/", "", _MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    if root.propagation:
        mounts.mount("none", "/", "", root.propagation)


def _wait_at_gate(gate: int, talk: Conversation) -> ChildSide:
    """Tell that everything is made, and wait for ``start``."""
    from sampan.linux import title  # imported by the command, for its process to be named

    title.show(("sampan-oci", "init"))
    listener = socket.socket(fileno=gate)
    talk.ready()
    caller, _ = listener.accept()
    listener.close()
    return ChildSide(caller)
