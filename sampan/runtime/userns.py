"""User namespaces of containers: the container's root is an unprivileged user of the host.

A *mapping* says which of the host's user and group numbers stand for the container's.  The files
of images and volumes keep the container's numbers on disk; each mount of them is *id-mapped*, so
that inside they have the same numbers again, and nothing is ever chowned.

The container's first process is set up outside the namespace, as the host's root, because it has
to open what the container's root must not.  Meanwhile it makes files as the user that the
container's root is (:func:`make_files_as_root`), and at the end it enters the namespace and takes a
mount namespace that belongs to it (:func:`enter`): mounts made before are locked then, for it and
for whatever it starts.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sampan.linux import capabilities, files, mount, namespaces, process
from sampan.runtime import host

_MADE_INSIDE = {
    "network": namespaces.CLONE_NEWNET,
    "ipc": namespaces.CLONE_NEWIPC,
    "uts": namespaces.CLONE_NEWUTS,
}


_NOBODY = 65534


class Range(NamedTuple):
    """``size`` numbers from ``inside`` on are those from ``outside`` on, on the host."""

    inside: int
    outside: int
    size: int


class Mapping(NamedTuple):
    """A container's user and group numbers on the host."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]

    def uid(self, inside: int) -> int:
        """The host's number of a user of the container.  Raises ValueError if it has none."""
        return _outside(self.uids, inside)

    def gid(self, inside: int) -> int:
        return _outside(self.gids, inside)

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's numbers of a user and group of the host; nobody's where it has none."""
        return _inside(self.uids, uid), _inside(self.gids, gid)


def _inside(ranges: Sequence[Range], outside: int) -> int:
    for part in ranges:
        if part.outside <= outside < part.outside + part.size:
            return part.inside + outside - part.outside
    return _NOBODY


def _outside(ranges: Sequence[Range], inside: int) -> int:
    for part in ranges:
        if part.inside <= inside < part.inside + part.size:
            return part.outside + inside - part.inside
    raise ValueError(f"user or group {inside} is not mapped in the user namespace")


def of_spec(linux: dict[str, Any]) -> Mapping | None:
    """The mapping of a specification that asks for a new user namespace.

    Raises ValueError if it says nothing of root.
    """
    fresh = any(
        entry.get("type") == "user" and not entry.get("path")
        for entry in linux.get("namespaces") or ()
    )
    if not fresh:
        if linux.get("uidMappings") or linux.get("gidMappings"):
            raise ValueError(
                "linux.uidMappings and gidMappings are not supported without a new user namespace"
            )
        return None
    mapping = Mapping(ranges(linux.get("uidMappings")), ranges(linux.get("gidMappings")))
    mapping.uid(0)
    mapping.gid(0)
    return mapping


def ranges(entries: Any) -> tuple[Range, ...]:
    """The specification's mappings."""
    return tuple(
        Range(int(entry["containerID"]), int(entry["hostID"]), int(entry["size"]))
        for entry in entries or ()
    )


def of_process(pid: int) -> Mapping | None:
    """The mapping of a process that is in another user namespace than the caller; else None.

    Raises OSError if there is no such process.
    """
    own, theirs = (os.stat(f"/proc/{name}/ns/user").st_ino for name in ("self", pid))
    if own == theirs:
        return None
    return Mapping(*(_read_map(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")))


def _read_map(path: str) -> tuple[Range, ...]:
    lines = files.read(path).decode().splitlines()
    return tuple(Range(*map(int, line.split())) for line in lines)


def of_namespace(user: int) -> Mapping:
    """The mapping of a user namespace given by its descriptor.  Raises OSError."""
    with _child(
        lambda: namespaces.setns(user, namespaces.CLONE_NEWUSER), "cannot join the user namespace"
    ) as pid:
        return Mapping(*(_read_map(f"/proc/{pid}/{name}") for name in ("uid_map", "gid_map")))


def make(mapping: Mapping, kinds: Sequence[str] = (), existing: int = -1) -> dict[str, int]:
    """A new user namespace, and namespaces of these kinds that belong to it: kind to descriptor.

    ``existing`` is one that there is already (a descriptor), whose mapping it is.  A short-lived
    child makes them.  Raises OSError.
    """
    flags = 0 if existing >= 0 else namespaces.CLONE_NEWUSER
    for kind in kinds:
        flags |= _MADE_INSIDE[kind]

    def enter() -> None:
        if existing >= 0:
            _enter_as_root(existing)
        namespaces.unshare(flags)

    with _child(enter, "cannot make a user namespace") as pid:
        if existing < 0:
            _write_map(pid, "uid_map", mapping.uids)
            _write_map(pid, "gid_map", mapping.gids)
        return {kind: namespaces.open_namespace(pid, kind) for kind in ("user", *kinds)}


@contextmanager
def _child(enter: Callable[[], None], problem: str) -> Iterator[int]:
    """The pid of a child that has entered namespaces, and stays in them until the block ends.

    Raises OSError, which begins with ``problem``, if it cannot enter them.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        try:
            ours.close()
            enter()
            theirs.send(b"\0")
            theirs.recv(1)
        except OSError as failure:
            theirs.send(bytes([failure.errno or 1]))
        finally:
            os._exit(0)
    theirs.close()
    try:
        code = ours.recv(1)[0]
        if code:
            raise OSError(code, f"{problem}: {os.strerror(code)}")
        yield pid
    finally:
        ours.close()
        os.waitpid(pid, 0)


def can_be_inside(flags: int) -> list[str]:
    """The kinds among these flags that :func:`make` can make."""
    return [kind for kind, flag in _MADE_INSIDE.items() if flags & flag]


def _write_map(pid: int, name: str, ranges: Sequence[Range]) -> None:
    text = "".join(f"{part.inside} {part.outside} {part.size}\n" for part in ranges)
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as failure:
        raise OSError(failure.errno, f"{name} {text.strip()!r} is refused by the kernel") from None
    finally:
        os.close(fd)


# --- in the container's first process -------------------------------------------------------


def make_files_as_root(mapping: Mapping) -> None:
    """From now on files are made as the container's root; all other rights are kept."""
    process.set_file_identity(mapping.uid(0), mapping.gid(0))
    permitted = capabilities.permitted()
    capabilities.set_capabilities(permitted, permitted, 0)


@contextmanager
def as_root_of(mapping: Mapping) -> Iterator[None]:
    """Let the calling thread make files as the container's root meanwhile."""
    try:
        make_files_as_root(mapping)
        yield
    finally:
        process.set_file_identity(0, 0)
        granted = capabilities.permitted()
        capabilities.set_capabilities(granted, granted, 0)


@contextmanager
def settings_as_root_of(mapping: Mapping | None) -> Iterator[None]:
    """Let the process write the kernel settings of namespaces that belong to the user namespace:
    some can be by its root only, whatever rights another has, and some by such rights."""
    if mapping is None:
        yield
        return
    try:
        os.seteuid(mapping.uid(0))
        held = capabilities.permitted()
        capabilities.set_capabilities(held, held, 0)
        yield
    finally:
        os.seteuid(0)
        make_files_as_root(mapping)


def idmap(tree: int, user: int, *, recursive: bool = False) -> None:
    """Make a detached mount show the container's numbers.  Raises OSError with what to do."""
    try:
        mount.mount_setattr(tree, set=mount.MOUNT_ATTR_IDMAP, userns_fd=user, recursive=recursive)
    except OSError as failure:
        raise OSError(
            failure.errno,
            "this file system cannot be id-mapped for a user namespace by the running kernel: "
            "run the container with --userns=host",
        ) from None


def new_filesystem(user: int, kind: str, options: Sequence[str], attributes: int) -> int:
    """A file system instance that belongs to the user namespace, as a detached mount."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        try:
            # In a mount namespace of the user namespace's, or nothing can be mounted.
            enter(user)
            made = mount.new_filesystem(kind, kind, options, attributes)
            rights = array.array("i", [made])
            theirs.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as failure:
            theirs.send(bytes([failure.errno or 1]))
        finally:
            os._exit(0)
    theirs.close()
    try:
        said, fds, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
    finally:
        ours.close()
        os.waitpid(pid, 0)
    if not fds:
        number = said[0] if said else 1
        raise OSError(number, f"mount {kind} in the user namespace: {os.strerror(number)}")
    return fds[0]


def enter(user: int) -> None:
    """Enter the namespace as its root, with a mount namespace that belongs to it."""
    _enter_as_root(user)
    namespaces.unshare(namespaces.CLONE_NEWNS)


def join(container: int) -> None:
    """Enter the user namespace of a process, given by its pidfd, as root."""
    _enter_as_root(container)


def _enter_as_root(user: int) -> None:
    namespaces.setns(user, namespaces.CLONE_NEWUSER)
    # There every capability can be had, also those that this host has given up.
    facts = host.get()
    capabilities.drop_bounding(facts.bounding, facts.last_capability, -1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
