"""Mounts: mount(2) and the descriptor-based interface (fsopen, open_tree, move_mount …).

A *detached* mount is a descriptor that is a mounted file system attached to no path: it is read
through the descriptor, can be moved to a place with :func:`move_mount`, and disappears with its
last user, so a killed process leaves nothing behind.  Linux ≥ 5.12.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sampan.linux.namespaces import CLONE_NEWNS, unshare
from sampan.linux.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    by_machine,
    error,
    function,
    numbered,
    path_bytes,
)

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6
# mount(2) copies at most a page of options, its end included.
_MOUNT_LIMIT = 4096
# Between an overlay's layers; a colon in a name is escaped.
_SEPARATOR = re.compile(r"(?<!\\):")


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_str, _int, _uint, _ulong = ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_ulong
_mount = function("mount", _str, _str, _str, _ulong, _str)
_umount2 = function("umount2", _str, _int)
_pivot_root = numbered(by_machine(155, 41), _str, _str)
_open_tree = numbered(428, _int, _str, _uint)
_move_mount = numbered(429, _int, _str, _int, _str, _uint)
_fsopen = numbered(430, _str, _uint)
_fsconfig = numbered(431, _int, _uint, _str, _str, _int)
_fsmount = numbered(432, _int, _uint, _uint)
_mount_setattr = numbered(442, _int, _str, _uint, ctypes.POINTER(_MountAttr), ctypes.c_size_t)


class MountLike(Protocol):
    """A mount as a snapshotter describes it."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def options(self) -> list[str]: ...


class Attributes(NamedTuple):
    """Mount options sorted by where they go: attribute bits of the mount (and of its whole tree),
    propagation, whether a bind is recursive, and the file system's own options."""

    set: int
    clear: int
    recursive_set: int
    recursive_clear: int
    propagation: int
    recursive_propagation: bool
    bind: bool
    recursive: bool
    data: list[str]


_FLAGS: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "relatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "atime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "nostrictatime": (MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}
_PROPAGATION = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
_IGNORED = frozenset({"defaults", "auto", "noauto", "user", "nouser", "_netdev", "nofail"})


def option_names() -> list[str]:
    """The options that :func:`parse_options` gives a meaning of their own."""
    names = ["bind", *_FLAGS, *_PROPAGATION]
    return sorted([*names, *(f"r{name}" for name in names)])


def parse_options(options: Iterable[str]) -> Attributes:
    """Sort mount(8) options; later ones win, as mount(8) has it."""
    set_, clear, rset, rclear, propagation = 0, 0, 0, 0, 0
    recursive_propagation = bind = recursive = False
    data: list[str] = []
    for option in options:
        if option in _FLAGS:
            on, off = _FLAGS[option]
            set_, clear = (set_ & ~off) | on, (clear & ~on) | off
        elif option == "bind":
            bind = True
        elif option == "rbind":
            bind = recursive = True
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option[:1] == "r" and option[1:] in _PROPAGATION:
            propagation, recursive_propagation = _PROPAGATION[option[1:]], True
        elif option[:1] == "r" and option[1:] in _FLAGS:
            on, off = _FLAGS[option[1:]]
            rset, rclear = (rset & ~off) | on, (rclear & ~on) | off
        elif option and option not in _IGNORED:
            data.append(option)
    return Attributes(
        set_, clear, rset, rclear, propagation, recursive_propagation, bind, recursive, data
    )


def mount(
    source: str | bytes, target: str | bytes, type: str, flags: int = 0, data: str = ""
) -> None:
    if _mount(path_bytes(source), path_bytes(target), type.encode(), flags, data.encode()) < 0:
        raise error(f"mount {type or 'flags'} on {os.fsdecode(target)}")


def umount(target: str | bytes, flags: int = MNT_DETACH) -> None:
    if _umount2(path_bytes(target), flags) < 0:
        raise error(f"unmount {os.fsdecode(target)}")


def pivot_root(new_root: str, put_old: str) -> None:
    if _pivot_root(path_bytes(new_root), path_bytes(put_old)) < 0:
        raise error(f"pivot_root to {new_root}")


def open_tree(dirfd: int, path: str | bytes, *, clone: bool = True, recursive: bool = False) -> int:
    """A descriptor of the mount at ``path`` (empty: ``dirfd`` itself); a detached copy by default."""
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0)
    flags |= (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    fd = _open_tree(dirfd, path_bytes(path), flags)
    if fd < 0:
        raise error(f"open_tree {os.fsdecode(path)}")
    return fd


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount on the directory or file that ``target_fd`` is."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    if _move_mount(mount_fd, b"", target_fd, b"", flags) < 0:
        raise error("attach a mount")


def move_mount_to(mount_fd: int, path: str | bytes) -> None:
    """Attach a detached mount at a path of the caller's own (trusted) root."""
    if _move_mount(mount_fd, b"", AT_FDCWD, path_bytes(path), MOVE_MOUNT_F_EMPTY_PATH) < 0:
        raise error(f"attach a mount at {os.fsdecode(path)}")


def mount_setattr(
    fd: int,
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns_fd: int = 0,
    path: str = "",
) -> None:
    """Change the mount that ``fd`` (or ``path`` from it) is the root of; not its file system."""
    attr = _MountAttr(set, clear, propagation, userns_fd)
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    size = ctypes.sizeof(attr)
    if _mount_setattr(fd, path.encode(), flags, ctypes.byref(attr), size) < 0:
        raise error("change mount attributes")


def apply_attributes(fd: int, options: Attributes) -> None:
    """Apply the parsed attribute bits and propagation to a mount."""
    if options.set or options.clear:
        mount_setattr(fd, set=options.set, clear=options.clear)
    if options.recursive_set or options.recursive_clear:
        mount_setattr(fd, set=options.recursive_set, clear=options.recursive_clear, recursive=True)
    if options.propagation:
        mount_setattr(fd, propagation=options.propagation, recursive=options.recursive_propagation)


def new_filesystem(
    type: str, source: str = "", data: Sequence[str] = (), attributes: int = 0
) -> int:
    """Make a file system instance; return its detached mount.  The kernel's own explanation of a
    refusal is part of the error."""
    context = _fsopen(type.encode(), FSOPEN_CLOEXEC)
    if context < 0:
        raise error(f"file system {type}")
    try:
        if source:
            _configure(context, type, "source", source)
        for option in data:
            key, found, value = option.partition("=")
            _configure(context, type, key, value if found else None)
        if _fsconfig(context, _CREATE, None, None, 0) < 0:
            raise _explained(context, f"mount {type} {source}".rstrip())
        fd = _fsmount(context, FSMOUNT_CLOEXEC, attributes)
        if fd < 0:
            raise _explained(context, f"mount {type}")
        return fd
    finally:
        os.close(context)


def _configure(context: int, type: str, key: str, value: str | None) -> None:
    if value is None:
        done = _fsconfig(context, _SET_FLAG, os.fsencode(key), None, 0)
    elif key == "lowerdir" and ("/" in value):
        # One call a layer: the value of a single call is limited to 255 bytes (Linux ≥ 6.7).
        done = 0
        for layer in split_layers(value):
            done = _fsconfig(context, _SET_STRING, b"lowerdir+", os.fsencode(layer), 0)
            if done < 0:
                break
    else:
        done = _fsconfig(context, _SET_STRING, os.fsencode(key), os.fsencode(value), 0)
    if done < 0:
        raise _explained(context, f"mount {type}: option {key}={value}")


def split_layers(value: str) -> list[str]:
    """Split overlay's ``a:b`` with ``\\:`` and ``\\\\`` escapes undone, as ``lowerdir+`` wants."""
    if "\\" not in value:
        return value.split(":")
    layers, current, escaped = [], "", False
    for character in value:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == ":":
            layers.append(current)
            current = ""
        else:
            current += character
    return [*layers, current]


def _explained(context: int, what: str) -> OSError:
    failure = error(what)
    messages = []
    while True:
        try:
            message = os.read(context, 4096)
        except OSError:
            break
        if not message:
            break
        messages.append(message[2:].decode(errors="replace").strip())
    if messages:
        return OSError(failure.errno, f"{failure.strerror} ({'; '.join(messages)})")
    return failure


def detached(mount: MountLike) -> int:
    """A detached mount of what a snapshotter describes; the caller closes the descriptor.

    Options that the descriptor interface cannot take on older kernels (an overlay's long list of
    layers before Linux 6.7) are mounted by mount(2) in a private mount namespace of a short-lived
    child, and handed over as a detached copy.
    """
    options = parse_options(mount.options)
    if mount.type == "bind" or options.bind:
        fd = open_tree(AT_FDCWD, mount.source, recursive=options.recursive)
    else:
        source = mount.source or mount.type
        try:
            fd = new_filesystem(mount.type, source, options.data)
        except OSError as failure:
            if failure.errno != errno.EINVAL or mount.type != "overlay":
                raise
            fd = _by_mount_call(mount.type, source, ",".join(options.data), failure)
    try:
        apply_attributes(fd, options)
    except OSError:
        os.close(fd)
        raise
    return fd


class _Filled(NamedTuple):
    """A mount with its references to earlier ones filled in."""

    type: str
    source: str
    options: list[str]


def stacked(mounts: Sequence[MountLike]) -> int:
    """The detached root of a list of mounts, which is the last one.

    Earlier ones serve it: ``{0}`` in its source or options stands for the first mount's root,
    ``{1}`` for the second's.  They live as long as the last one uses them.  A reference to a
    detached mount needs Linux ≥ 6.15 where the file system clones it (an overlay's layers).
    """
    if not mounts:
        raise OSError(errno.EINVAL, "a root file system needs at least one mount")
    made: list[int] = []
    try:
        for entry in mounts:
            places = [f"/proc/self/fd/{fd}" for fd in made]
            made.append(detached(_fill(entry, places)))
        return made.pop()
    finally:
        for fd in made:
            os.close(fd)


def _fill(entry: MountLike, places: Sequence[str]) -> MountLike:
    def fill(text: str) -> str:
        for number, place in enumerate(places):
            text = text.replace(f"{{{number}}}", place)
        return text

    if not places:
        return entry
    return _Filled(entry.type, fill(entry.source), [fill(option) for option in entry.options])


def _by_mount_call(type: str, source: str, data: str, failure: OSError) -> int:
    """Nothing is imported or made here: it may run on the way into a container."""
    folder, data = _shortened(data)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        try:
            unshare(CLONE_NEWNS)
            mount("none", "/", "", MS_REC | MS_PRIVATE)
            os.chdir(folder)
            # Any directory will do: the name space is gone in a moment.
            mount(source, "/proc", type, 0, data)
            socket.send_fds(theirs, [b"+"], [open_tree(AT_FDCWD, "/proc")])
        except OSError as error:
            theirs.send(str(error.errno).encode())
        finally:
            os._exit(0)
    theirs.close()
    try:
        said, fds, _, _ = socket.recv_fds(ours, 16, 1)
    finally:
        ours.close()
        os.waitpid(pid, 0)
    if not fds:
        number = int(said or failure.errno or errno.EIO)
        raise OSError(number, f"mount {type}: {os.strerror(number)}") from failure
    os.set_inheritable(fds[0], False)
    return fds[0]


def _shortened(data: str) -> tuple[str, str]:
    """A directory and the options with the layers named from there: mount(2) takes one page, which
    a hundred full paths do not fit in."""
    options = data.split(",")
    for number, option in enumerate(options):
        layers = _SEPARATOR.split(option.removeprefix("lowerdir="))
        if option.startswith("lowerdir=/") and len(data) >= _MOUNT_LIMIT:
            folder = os.path.commonpath(layers)
            names = [os.path.relpath(layer, folder) for layer in layers]
            if "\\" not in folder:
                options[number] = f"lowerdir={':'.join(names)}"
                return folder, ",".join(options)
    return "/", data
