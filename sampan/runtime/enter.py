"""The child that becomes a further process of a running container (``exec``).

It enters the container's namespaces by one setns(2) on the first process's pidfd and ends in
execve.  Nothing of the container's files is opened but the terminal multiplexer, by openat2 and
checked for what it is.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

from sampan.linux import namespaces, process, pty
from sampan.linux.openat2 import open_in_root
from sampan.linux.syscalls import AT_FDCWD
from sampan.runtime import confine, userns
from sampan.runtime.guard import Forbidden, Guard
from sampan.runtime.sync import ChildSide, describe
from sampan.runtime.types import ExecRequest
from sampan.runtime.users import UnknownUser

_SETUP_FAILED = 126


class Plan(NamedTuple):
    """What the keeper worked out for its child before the fork."""

    request: ExecRequest
    confinement: confine.Preparation
    container: int
    """A pidfd of the container's first process."""
    flags: int
    """The namespaces to join; the process-number namespace has been joined by the fork."""
    mapping: userns.Mapping | None = None


def run(plan: Plan, sock: socket.socket, stdio: tuple[int, ...] | None) -> None:
    """``stdio`` are the process's three streams; None: it gets a terminal.  Never returns."""
    sync = ChildSide(sock)
    try:
        _run(plan, sync, stdio)
    except (confine.Setup, UnknownUser, OSError, ValueError, KeyError) as failure:
        sync.fail(describe(failure), _SETUP_FAILED)
    except Forbidden as failure:
        sync.fail(str(failure), _SETUP_FAILED)
    except BaseException as failure:
        sync.fail(f"internal error: {failure!r}", _SETUP_FAILED)
    finally:
        os._exit(1)


def _run(plan: Plan, sync: ChildSide, stdio: tuple[int, ...] | None) -> None:
    os.setsid()
    guard = Guard()
    sync.wait_for_go()
    # /proc is the host's before the namespaces are entered.
    score = plan.confinement.process.get("oomScoreAdj")
    if score is not None and not _write_self("oom_score_adj", str(score)):
        sync.warn(f"oom_score_adj {score} is not permitted on this host")
    profile = plan.confinement.process.get("apparmorProfile")
    if profile and not (
        _write_self("attr/apparmor/exec", f"exec {profile}")
        or _write_self("attr/exec", f"exec {profile}")
    ):
        raise confine.Setup(f"apparmor failed to apply profile {profile!r}: not available here")
    # A user namespace comes last: the streams are not its root's yet.
    namespaces.setns(plan.container, plan.flags & ~namespaces.CLONE_NEWUSER)
    guard.inside()
    root = open_in_root(AT_FDCWD, "/", os.O_RDONLY | os.O_DIRECTORY)
    who = confine.identity(root, plan.confinement.process)
    if stdio is None:
        ptmx = open_in_root(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        pair = pty.open_pair(ptmx)
        confine.adopt_terminal(*pair, plan.confinement.process, who, sync, plan.mapping)
    else:
        confine.adopt_pipes(stdio, who, plan.mapping)
    os.close(root)
    confine.apply_limits(plan.confinement, sync.warn)
    if plan.mapping:
        userns.join(plan.container)
    try:
        process.new_session_keyring(f"_ses.{plan.request.id}")
    except OSError:
        sync.warn("no session keyring of its own: the host refuses keyrings")
    environ = confine.environment(plan.confinement, who)
    confine.start_program(plan.confinement, who, environ, sync)


def _write_self(name: str, value: str) -> bool:
    try:
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
