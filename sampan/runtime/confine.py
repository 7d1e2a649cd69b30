"""The last steps of a container's process: limits, identity, capabilities, filter, execve.

Shared by a container's first process and by further ones.  Runs inside the container's root; the
:class:`Preparation` was made by the keeper before.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from sampan.linux import capabilities, process, pty, seccomp
from sampan.runtime import host
from sampan.runtime.sync import ChildSide, command_error
from sampan.runtime.userns import Mapping
from sampan.runtime.users import Identity, home_of, read_database, resolve

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNLIMITED = (1 << 64) - 1
_UNCHANGED = (1 << 32) - 1
_CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
# Those that the interpreter, the spawner and the keeper have changed.
_CHANGED_SIGNALS = (
    signal.SIGINT,
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGTTOU,
)
_SECCOMP_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": seccomp.FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": seccomp.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": seccomp.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": seccomp.FLAG_WAIT_KILLABLE_RECV,
}


class Setup(Exception):
    """A step before execve failed; the message is for the user."""


class Preparation(NamedTuple):
    """What is known before the fork: the host's limits and the specification's wishes in bits."""

    process: dict[str, Any]
    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int
    rlimits: tuple[tuple[int, int, int], ...]
    program: bytes
    program_flags: int
    last_capability: int
    host_bounding: int
    kept: int = 0
    """How many descriptors from 3 on the program inherits."""
    listens: bool = False
    """Whether the filter notifies a listener, which the other side is to take."""


def prepare(spec_process: dict[str, Any], program: bytes, flags: Sequence[str] = ()) -> Preparation:
    """Check and translate ``process``.

    Raises ValueError for unknown capabilities and limits.
    """
    facts = host.get()
    wanted = spec_process.get("capabilities") or {}
    sets = {}
    for name in _CAPABILITY_SETS:
        try:
            # What the host cannot give (its own bounding set) is left out, as Docker does.
            sets[name] = capabilities.mask(wanted.get(name) or ()) & facts.bounding
        except KeyError as unknown:
            raise ValueError(f"unknown capability {unknown.args[0]!r}") from None
    limits = []
    for limit in spec_process.get("rlimits") or ():
        number = getattr(resource, str(limit["type"]), None)
        if number is None:
            raise ValueError(f"unknown resource limit {limit['type']!r}")
        limits.append((number, _limit(limit["soft"]), _limit(limit["hard"])))
    bits = 0
    for flag in flags:
        if flag not in _SECCOMP_FLAGS:
            raise ValueError(f"unknown seccomp flag {flag!r}")
        bits |= _SECCOMP_FLAGS[flag]
    return Preparation(
        spec_process,
        bounding=sets["bounding"],
        effective=sets["effective"],
        permitted=sets["permitted"],
        inheritable=sets["inheritable"],
        ambient=sets["ambient"],
        rlimits=tuple(limits),
        program=program,
        program_flags=bits,
        last_capability=facts.last_capability,
        host_bounding=facts.bounding,
    )


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= _UNLIMITED else value


def apply_limits(plan: Preparation, warn: Callable[[str], None]) -> None:
    """Resource limits; one that this host may not raise is lowered to what it may, and told."""
    for number, soft, hard in plan.rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, PermissionError):
            _, most = resource.getrlimit(number)
            try:
                within = most if soft == resource.RLIM_INFINITY else min(soft, most)
                resource.setrlimit(number, (within, most))
            except (ValueError, OSError):
                pass
            warn(f"resource limit {number} cannot be raised to {hard} on this host")


def become(
    plan: Preparation, who: Identity, umask: int | None, sync: ChildSide | None = None
) -> None:
    """Install the filter, take the identity and the capabilities.  Raises OSError and Setup.

    ``sync`` is needed where the filter has a listener.
    """
    if _UNCHANGED in (who.uid, who.gid):
        # setresuid(2) takes this number for "as it is", which is root.
        raise Setup(f"{_UNCHANGED} is no user and no group")
    no_new_privileges = bool(plan.process.get("noNewPrivileges"))
    if plan.program and not no_new_privileges:
        # While the right to do so is still there; afterwards it would need no_new_privs.
        _install_filter(plan, sync)
    capabilities.drop_bounding(plan.bounding, plan.last_capability, plan.host_bounding)
    if umask is not None:
        os.umask(umask)
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    _set_groups(who)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    process.prctl(process.PR_SET_KEEPCAPS, 0)
    if who.uid == 0 or plan.ambient:
        effective, permitted = plan.effective, plan.permitted
    else:
        # execve clears them for other users; until then they serve nothing.
        effective = permitted = 0
    capabilities.set_capabilities(effective, permitted, plan.inheritable)
    if plan.ambient:
        capabilities.set_ambient(plan.ambient)
    if no_new_privileges:
        process.set_no_new_privileges()
        if plan.program:
            _install_filter(plan, sync)


def _install_filter(plan: Preparation, sync: ChildSide | None) -> None:
    if not plan.listens or sync is None:
        seccomp.install(plan.program, plan.program_flags)
        return
    # The other side takes the listener out of this process by its number: once the filter is
    # there, sending it might itself have to wait for whoever listens.
    number = os.dup(0)
    os.close(number)
    sync.listener(number)
    # One thread is all there is; with a listener the kernel would not synchronize others anyway.
    flags = plan.program_flags & ~seccomp.FLAG_TSYNC | seccomp.FLAG_NEW_LISTENER
    found = seccomp.install(plan.program, flags)
    sync.wait_for_go()
    os.close(found)


def _set_groups(who: Identity) -> None:
    try:
        os.setgroups(who.groups)
    except PermissionError:
        if who.groups:
            raise


def enter_directory(cwd: str) -> None:
    """Change to the working directory and make sure that it is inside the root.

    Raises Setup.  A directory outside (through a leaked descriptor, say) shows as unreachable.
    """
    try:
        os.chdir(cwd)
        current = os.getcwdb()
    except OSError as failure:
        text = (failure.strerror or "").lower()
        raise Setup(f'chdir to cwd ("{cwd}") set in config.json failed: {text}') from None
    if not current.startswith(b"/"):
        raise Setup("current working directory is outside of container mount namespace root")


def environment(plan: Preparation, who: Identity) -> dict[bytes, bytes]:
    """The program's environment: later entries win; HOME is filled in."""
    result: dict[bytes, bytes] = {}
    for entry in plan.process.get("env") or ():
        name, _, value = os.fsencode(entry).partition(b"=")
        result[name] = value
    if not result.get(b"HOME"):
        result[b"HOME"] = os.fsencode(who.home)
    return result


def find_program(plan: Preparation, environ: dict[bytes, bytes]) -> None:
    """Raises Setup with the exit code as its second argument if there is nothing to execute."""
    name = os.fsencode(plan.process["args"][0])
    worst = OSError(errno.ENOENT, "")
    for _, problem in _candidates(name, environ):
        if problem is None:
            return
        worst = problem
    raise Setup(*command_error(os.fsdecode(name), worst))


def _candidates(name: bytes, environ: dict[bytes, bytes]) -> Iterator[tuple[bytes, OSError | None]]:
    """Where the program may be, with what speaks against each (if it tells more than absence)."""
    if b"/" in name:
        candidates = [name]
    else:
        path = environ.get(b"PATH", os.fsencode(DEFAULT_PATH))
        candidates = [(part or b".") + b"/" + name for part in path.split(b":")] if name else []
    for candidate in candidates:
        try:
            mode = os.stat(candidate).st_mode
        except OSError as failure:
            if failure.errno == errno.EACCES or len(candidates) == 1:
                yield candidate, failure
            continue
        if stat.S_ISDIR(mode):
            yield candidate, OSError(errno.EISDIR if len(candidates) == 1 else errno.EACCES, "")
        elif not os.access(candidate, os.X_OK):
            yield candidate, OSError(errno.EACCES, "")
        else:
            yield candidate, None


def execute(
    plan: Preparation, environ: dict[bytes, bytes], executing: Callable[[], None]
) -> tuple[str, int]:
    """Replace the process by the program; returns (message, exit code) only on failure."""
    arguments = [os.fsencode(argument) for argument in plan.process["args"]]
    process.close_range(3 + plan.kept, flags=process.CLOSE_RANGE_CLOEXEC)
    worst = OSError(errno.ENOENT, "")
    shown = os.fsdecode(arguments[0])
    for candidate, problem in _candidates(arguments[0], environ):
        if problem is not None:
            worst = problem
            continue
        executing()
        try:
            os.execve(candidate, arguments, environ)
        except OSError as failure:
            if failure.errno == errno.ENOENT:
                # The file is there: its interpreter is not.
                return f"exec {os.fsdecode(candidate)}: no such file or directory", 127
            return command_error(shown, failure)
    return command_error(shown, worst)


def identity(root: int, spec_process: dict[str, Any]) -> Identity:
    """Resolve the user against the container's own files; ``root`` is its root directory."""
    user = spec_process.get("user") or {}
    passwd = read_database(root, "etc/passwd")
    names = [str(name) for name in user.get("additionalGroupNames") or ()]
    extra = [int(gid) for gid in user.get("additionalGids") or ()]
    username = user.get("username")
    if username is not None:
        who = resolve(passwd, read_database(root, "etc/group"), str(username), names)
        return who._replace(groups=tuple(dict.fromkeys([*who.groups, *extra])))
    uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
    if names:
        extra += resolve(passwd, read_database(root, "etc/group"), str(uid), names).groups[1:]
    return Identity(uid, gid, tuple(dict.fromkeys(extra)), home_of(passwd, uid))


def adopt_terminal(
    master: int,
    slave: int,
    spec_process: dict[str, Any],
    who: Identity,
    sync: ChildSide,
    mapping: Mapping | None = None,
) -> None:
    """Make the terminal the process's streams and hand its master to the keeper."""
    size = spec_process.get("consoleSize") or {}
    if size.get("height") or size.get("width"):
        pty.set_window(master, int(size.get("height", 0)), int(size.get("width", 0)))
    os.fchown(slave, mapping.uid(who.uid) if mapping else who.uid, -1)
    sync.terminal(master)
    pty.make_controlling(slave)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.close(master)
    os.close(slave)


def adopt_pipes(stdio: tuple[int, ...], who: Identity, mapping: Mapping | None = None) -> None:
    """The user must be able to open /dev/stdout again."""
    uid = mapping.uid(who.uid) if mapping else who.uid
    for number, fd in enumerate(stdio):
        if uid and fd != stdio[0]:
            os.fchown(fd, uid, -1)
        os.dup2(fd, number)


def start_program(
    plan: Preparation, who: Identity, environ: dict[bytes, bytes], sync: ChildSide
) -> None:
    """The common end of every container process; does not return."""
    spec_user = plan.process.get("user") or {}
    cwd = str(plan.process.get("cwd") or "/")
    entered = True
    try:
        enter_directory(cwd)
    except Setup:
        entered = False  # perhaps only the user may enter it
    process.reset_signals(_CHANGED_SIGNALS)
    become(plan, who, spec_user.get("umask", 0o022), sync)
    if not entered:
        enter_directory(cwd)
    sync.fail(*execute(plan, environ, sync.executing))
