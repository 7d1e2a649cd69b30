"""What is done with a container once it is made: start, kill, delete, pause, resume."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from typing import Any

from sampan.runtime import cgroups
from sampan.runtime.errors import StartError
from sampan.runtime.oci import hooks, listeners, notify, records
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import Options
from sampan.runtime.sync import KeeperSide

_DEATH = 10_000  # milliseconds that a killed process may take to be gone


def only(options: Options) -> str:
    """The one argument that must be there."""
    if len(options.arguments) != 1:
        raise OciError("exactly one argument is wanted: the container's ID")
    return options.arguments[0]


def start(root: str, options: Options) -> int:
    """``start``: open the gate; returns when the program has been executed."""
    record = records.read(root, only(options))
    held = records.lock(record)
    try:
        status = record.status()
        if status == "stopped":
            raise OciError("cannot start a container that has stopped")
        if status != "created":
            raise OciError("cannot start an already running container")
        ready = notify.bind(record)
        try:
            _open_gate(record)
        except StartError as failure:
            raise OciError(f"unable to start container process: {failure}") from None
    finally:
        os.close(held)
    poststart(record)
    if ready:
        notify.pass_on(ready, record.pid)
    return 0


def _open_gate(record: records.Record) -> None:
    place = handle = -1
    try:
        place = os.open(record.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Before the gate: the program may have ended, and been waited for, right after.
        handle = os.pidfd_open(record.pid)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            side = KeeperSide(sock)
            side.on_listener = listeners.on_listener(
                record, record.config(), record.pid, handle, "created"
            )
            sock.connect(f"/proc/self/fd/{place}/{records.GATE}")
            # From here on the process is as good as running.
            os.unlink(records.GATE, dir_fd=place)
            side.wait_for_exec()
    except OSError as failure:
        raise OciError(f"cannot reach the container's first process: {failure.strerror}") from None
    finally:
        for fd in (place, handle):
            if fd >= 0:
                os.close(fd)


def poststart(record: records.Record, config: dict[str, Any] | None = None) -> None:
    """Run the hooks that follow the start; what fails is told and goes on."""
    _late_hooks(record, "poststart", "running", config)


def _late_hooks(
    record: records.Record, kind: str, status: str, config: dict[str, Any] | None
) -> None:
    found = record.config() if config is None else config
    wanted = (found.get("hooks") or {}).get(kind) or ()
    if wanted:
        state = json.dumps(record.document(status)).encode()
        hooks.run(wanted, kind, state, lambda text: print(f"warning: {text}", file=sys.stderr))


def number_of(name: str) -> int:
    """A signal's number.  Raises OciError."""
    if name.isdecimal() and 0 <= int(name) < signal.NSIG:
        return int(name)
    short = name.upper().removeprefix("SIG")
    try:
        if short.startswith("RTMIN+"):
            return signal.SIGRTMIN + int(short[6:])
        if short.startswith("RTMAX-"):
            return signal.SIGRTMAX - int(short[6:])
        if short.isalnum():
            # The names of other constants have an underscore.
            return int(getattr(signal, f"SIG{short}"))
    except (AttributeError, ValueError):
        pass
    raise OciError(f"unknown signal {name!r}")


def kill(root: str, options: Options) -> int:
    """``kill``: send a signal to the first process, or with ``--all`` to all of them."""
    if not 1 <= len(options.arguments) <= 2:
        raise OciError("the container's ID is wanted, and perhaps a signal")
    record = records.read(root, options.arguments[0])
    number = number_of([*options.arguments, "SIGTERM"][1])
    if options.flag("all"):
        pids = cgroups.group(record.cgroup).pids()
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return 0
    try:
        handle = os.pidfd_open(record.pid)
    except OSError:
        raise OciError("container not running") from None
    try:
        if not records.alive(record.pid, record.start):
            raise OciError("container not running")
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        raise OciError("container not running") from None
    finally:
        os.close(handle)
    if number == signal.SIGKILL and records.frozen(record.group_path):
        cgroups.group(record.cgroup).thaw()
    return 0


def delete(root: str, options: Options) -> int:
    """``delete``: forget a container that has stopped, or was never started."""
    force = options.flag("force")
    identity = only(options)
    try:
        record = records.read(root, identity)
    except OciError:
        if not force:
            raise
        # What a command killed half-way has left: there is nothing but the directory.
        records.remove(f"{root}/{identity}")
        return 0
    status = record.status()
    if status not in ("stopped", "created") and not force:
        raise OciError(f"cannot delete container {identity} that is not stopped: {status}")
    forget(record)
    return 0


def forget(record: records.Record, config: dict[str, Any] | None = None) -> None:
    """End what is left of a container, run its last hooks, and remove its record; nothing if
    another command has done so meanwhile.  ``config`` saves reading it again."""
    try:
        held = records.lock(record)
    except OciError:
        return
    try:
        if not records.exists(record):
            return
        _end(record)
        cgroups.group(record.cgroup).delete()
        _late_hooks(record, "poststop", "stopped", config)
        records.remove(record.directory)
    finally:
        os.close(held)


def _end(record: records.Record) -> None:
    """Kill the first process and wait until it is gone."""
    try:
        handle = os.pidfd_open(record.pid)
    except OSError:
        return
    try:
        if not records.alive(record.pid, record.start):
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if records.frozen(record.group_path):
            cgroups.group(record.cgroup).thaw()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_DEATH):
            raise OciError(f"container {record.id} does not end although it was killed")
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def pause(root: str, options: Options) -> int:
    """``pause``: freeze all processes."""
    record = records.read(root, only(options))
    status = record.status()
    if status not in ("running", "created"):
        raise OciError(f"cannot pause a container that is {status}")
    cgroups.group(record.cgroup).freeze()
    return 0


def resume(root: str, options: Options) -> int:
    """``resume``: let them run again."""
    record = records.read(root, only(options))
    if record.status() != "paused":
        raise OciError("cannot resume a container that is not paused")
    cgroups.group(record.cgroup).thaw()
    return 0
