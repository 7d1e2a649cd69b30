"""Records of containers: a directory each below ``--root``.

``ROOT/ID/state.json`` is written once the container exists, ``config.json`` is the bundle's as it
was then, ``gate`` is there until the program has been started, ``lock`` is held by the command that
changes something.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import Any, NamedTuple

from sampan.linux import process
from sampan.runtime.oci.errors import OciError

GATE = "gate"
VERSION = "1.2.1"
_STATE, _CONFIG, _LOCK = "state.json", "config.json", "lock"
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")


class Record(NamedTuple):
    """What is known of a container; ``start`` is its first process's start time in clock ticks,
    ``cgroup`` the group's path in its hierarchies, or ``SLICE:PREFIX:NAME`` of systemd's."""

    directory: str
    id: str
    pid: int
    start: int
    bundle: str
    rootfs: str
    created: str
    cgroup: str
    annotations: dict[str, str]

    @property
    def group_path(self) -> str:
        """Where the group lies, whoever has made it."""
        if ":" not in self.cgroup:
            return self.cgroup
        from sampan.runtime.cgroups import systemd

        return systemd.split(self.cgroup)[2]

    def status(self) -> str:
        """``created``, ``running``, ``paused`` or ``stopped``."""
        if not alive(self.pid, self.start):
            return "stopped"
        if os.path.exists(f"{self.directory}/{GATE}"):
            return "created"
        return "paused" if frozen(self.group_path) else "running"

    def document(self, status: str | None = None) -> dict[str, Any]:
        """The state of the runtime specification; ``pid`` is 0 when stopped."""
        status = status or self.status()
        return {
            "ociVersion": VERSION,
            "id": self.id,
            "pid": 0 if status == "stopped" else self.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "owner": "",
            **({"annotations": self.annotations} if self.annotations else {}),
        }

    def config(self) -> dict[str, Any]:
        """The configuration that it was made by."""
        with open(f"{self.directory}/{_CONFIG}", encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        return found


def alive(pid: int, start: int) -> bool:
    """Whether the process still runs; one that waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read()
    except OSError:
        return False
    after = fields[fields.rindex(b")") + 2 :].split()
    return int(after[19]) == start and after[0] not in (b"Z", b"X")


def frozen(cgroup: str) -> bool:
    """Whether the group's processes are stopped by ``pause``."""
    from sampan.runtime import cgroups

    layout = cgroups.layout()
    if layout.version == 2:
        name = f"{layout.unified}{cgroup}/cgroup.freeze"
        wanted = b"1"
    else:
        name = f"{layout.points.get('freezer', '')}{cgroup}/freezer.state"
        wanted = b"FROZEN"
    try:
        with open(name, "rb") as file:
            return file.read().strip() == wanted
    except OSError:
        return False


def check_name(identity: str) -> None:
    """Raises OciError unless the name may be one of a directory."""
    if identity in ("", ".", "..") or not _LETTERS.issuperset(identity):
        raise OciError(f"invalid container ID: {identity!r} (letters, digits, and +-_. only)")


def reserve(root: str, identity: str) -> str:
    """Make the record's directory.  Raises OciError if there is a container of that name."""
    check_name(identity)
    os.makedirs(root, 0o711, exist_ok=True)
    directory = f"{root}/{identity}"
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        raise OciError(
            f"container with id {identity} exists: container ID already in use"
        ) from None
    return directory


def write(record: Record, config: bytes) -> None:
    """Write a record so that a reader sees all of it or none."""
    _write(record.directory, _CONFIG, config)
    _write(record.directory, _STATE, json.dumps(record._asdict()).encode())


def _write(directory: str, name: str, data: bytes) -> None:
    fd = os.open(f"{directory}/{name}.new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.replace(f"{directory}/{name}.new", f"{directory}/{name}")


def read(root: str, identity: str) -> Record:
    """Raises OciError if there is no such container."""
    check_name(identity)
    try:
        with open(f"{root}/{identity}/{_STATE}", encoding="utf-8") as file:
            return Record(**json.load(file))
    except (FileNotFoundError, NotADirectoryError):
        raise OciError(f"container {identity} does not exist") from None
    except (ValueError, TypeError) as failure:
        raise OciError(f"the record of container {identity} is damaged: {failure}") from None


def names(root: str) -> list[str]:
    """The containers that have a complete record."""
    try:
        found = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [name for name in found if os.path.exists(f"{root}/{name}/{_STATE}")]


def exists(record: Record) -> bool:
    """Whether it has not been removed since it was read."""
    return os.path.exists(f"{record.directory}/{_STATE}")


def lock(record: Record) -> int:
    """Hold the record against other commands until the descriptor is closed."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(f"{record.directory}/{_LOCK}", flags, 0o600)
    except FileNotFoundError:
        raise OciError(f"container {record.id} does not exist") from None
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def remove(directory: str) -> None:
    """Remove a record; the state goes first, so that the container is gone at once."""
    for name in (_STATE, _CONFIG, GATE, _LOCK, f"{_STATE}.new", f"{_CONFIG}.new"):
        try:
            os.unlink(f"{directory}/{name}")
        except FileNotFoundError:
            pass
    for name in ("notify/notify.sock",):
        try:
            os.unlink(f"{directory}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            pass
    for place in (f"{directory}/notify", directory):
        try:
            os.rmdir(place)
        except FileNotFoundError:
            pass


def start_time(pid: int) -> int:
    """As :func:`sampan.linux.process.start_time`."""
    return process.start_time(pid)
