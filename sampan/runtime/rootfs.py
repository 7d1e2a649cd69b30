"""Build a container's file system view, by the new process itself, through descriptors.

The caller is in a mount namespace of its own.  :class:`RootFs` attaches the root, makes the
specification's mounts, devices and links below it, hides what must be hidden and pivots.  Every
path below the root is opened by openat2 with the root as its limit; what lies in ``/proc`` and
``/dev`` is reached from the descriptors of the mounts made here, so no link or race inside the
root file system can redirect it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sampan.linux import mount as mounts
from sampan.linux import namespaces, pty
from sampan.linux.mount import (
    MNT_DETACH,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    MountLike,
)
from sampan.linux.openat2 import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    make_directories,
    make_file,
    open_in_root,
    openat2,
)
from sampan.linux.syscalls import AT_FDCWD
from sampan.runtime import idmapped, userns

ID_MAP = "idMap"
"""The key of a mount's user namespace (a descriptor) by which its owners are shown, which is not
in the specification: its own mappings cannot be set up from inside the container's namespaces."""

_DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
# What may be mounted below /proc (as LXCFS does): files that only inform.
_PROC_OVERRIDES = frozenset(
    f"/proc/{name}"
    for name in [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ]
)
_PROPAGATIONS = {
    "": MS_REC | MS_SLAVE,
    "private": MS_PRIVATE,
    "rprivate": MS_REC | MS_PRIVATE,
    "slave": MS_SLAVE,
    "rslave": MS_REC | MS_SLAVE,
    "shared": MS_SHARED,
    "rshared": MS_REC | MS_SHARED,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_REC | MS_UNBINDABLE,
}
_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_SAFE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC


def open_source(source: str, recursive: bool) -> int:
    """A detached copy of the mount at ``source``.

    ``/proc/PID/root/…`` lies in another container's mount namespace, which is entered for it:
    the kernel copies only what the caller's own namespace holds.
    """
    pid, found, path = source.removeprefix("/proc/").partition("/root/")
    if not (found and pid.isdecimal() and source.startswith("/proc/")):
        return mounts.open_tree(AT_FDCWD, source, recursive=recursive)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(theirs, namespaces.CLONE_NEWNS)
        try:
            place = openat2(AT_FDCWD, f"/{path}", O_PATH, resolve=RESOLVE_IN_ROOT)
            try:
                return mounts.open_tree(place, "", recursive=recursive)
            finally:
                os.close(place)
        finally:
            namespaces.setns(own, namespaces.CLONE_NEWNS)
    finally:
        os.close(own)
        os.close(theirs)


class GroupPlaces:
    """A detached directory with a place for each version 1 hierarchy."""

    def __init__(self, points: Iterable[str]) -> None:
        """``points`` are the hierarchies' mount points on the host, by whose last parts they are
        known: ``cpu,cpuacct`` also as ``cpu`` and ``cpuacct``."""
        self.base = mounts.new_filesystem("tmpfs", "tmpfs", ["mode=755"], _SAFE)
        self.of: dict[str, int] = {}
        for point in points:
            names = point.rpartition("/")[2]
            os.mkdir(names, 0o755, dir_fd=self.base)
            self.of[point] = openat2(self.base, names, O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
            for name in names.split(","):
                if name != names:
                    os.symlink(names, name, dir_fd=self.base)

    def close(self) -> None:
        for fd in (self.base, *self.of.values()):
            os.close(fd)


class MountError(OSError):
    """A mount of the specification cannot be made; the message names its destination."""


class RootFs:
    """The root file system under construction."""

    def __init__(
        self,
        root: Sequence[MountLike],
        place: str,
        propagation: str,
        *,
        bind_devices: bool,
        mapping: userns.Mapping | None = None,
        user: int = -1,
        idmap_root: bool = True,
        on_host: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        """Attach ``root`` over the directory ``place`` of the caller's own namespace.

        ``bind_devices`` takes device nodes from the host instead of making them (in a user
        namespace nobody may make any).  With a ``mapping``, that of the user namespace ``user``
        (a descriptor), the container's files show its own numbers there; those of the root only
        with ``idmap_root``.  ``on_host`` enters the host's mount namespace for a while, for a
        caller whose own one has nothing of the host.
        """
        flags = _PROPAGATIONS.get(propagation)
        if flags is None:
            raise MountError(errno.EINVAL, f"unknown root propagation {propagation}")
        self._apart = on_host is not None
        self.on_host = on_host or nullcontext
        """Enters the host's mount namespace, where the caller's own is another."""
        if not self._apart:
            mounts.mount("none", "/", "", MS_REC | MS_SLAVE)
        self.propagation = flags if propagation else 0
        self.bind_devices = bind_devices
        self._mapping = mapping
        self._user = user
        if mapping is None or not idmap_root:
            with self.on_host():
                self.fd = mounts.stacked(root)
        else:
            self.fd = idmapped.root(root, place, user)
        mounts.mount_setattr(self.fd, propagation=MS_PRIVATE)
        mounts.move_mount_to(self.fd, place)
        self.proc = -1
        self.dev = -1
        self.pts = -1
        self.sys = -1
        self._empty = -1
        self._read_only: list[int] = []
        self._sources: dict[int, int] = {}

    # --- mounts -----------------------------------------------------------------------------

    def open_sources(self, entries: Iterable[dict[str, Any]]) -> None:
        """Open what is going to be bound, at one go.  What cannot be opened is left for
        :meth:`add` to report."""
        if not self._apart:
            return
        with self.on_host():
            for entry in entries:
                options = entry.get("options") or ()
                if "bind" in options or "rbind" in options:
                    try:
                        source = open_source(str(entry.get("source") or ""), "rbind" in options)
                    except OSError:
                        continue
                    self._sources[id(entry)] = source

    def add(self, entry: dict[str, Any]) -> None:
        """Make one mount of the specification's list."""
        destination = "/" + str(entry["destination"]).strip("/")
        try:
            self._add(entry, destination)
        except MountError:
            raise
        except OSError as failure:
            source = entry.get("source") or entry.get("type") or ""
            raise MountError(
                failure.errno,
                f"error mounting {source!r} to rootfs at {destination!r}: {failure.strerror}",
            ) from failure

    def _add(self, entry: dict[str, Any], destination: str) -> None:
        options = mounts.parse_options(entry.get("options") or ())
        kind = entry.get("type") or ("bind" if options.bind else "none")
        if options.bind:
            kind = "bind"
        if destination == "/":
            raise MountError(errno.EINVAL, "a mount cannot replace the root file system")
        if destination.startswith("/proc/") and destination not in _PROC_OVERRIDES:
            raise MountError(
                errno.EPERM, f"{destination!r} cannot be mounted because it is inside /proc"
            )
        if destination == "/proc" and kind != "proc" and not (kind == "bind"):
            raise MountError(errno.EPERM, "only procfs can be mounted on /proc")
        if kind == "bind":
            self._bind(entry, destination, options)
            return
        data = options.data
        unsaid = kind == "tmpfs" and not any(item.startswith("mode=") for item in data)
        new = unsaid and not self._is_there(destination)
        if kind in ("proc", "sysfs"):
            target = self.directory_of(destination)
        else:
            target = self._directory(destination)
            self._keep_out_of_proc(target, destination)
        late_read_only = 0
        if kind == "tmpfs" and options.set & MOUNT_ATTR_RDONLY:
            late_read_only = MOUNT_ATTR_RDONLY
        if unsaid:
            # That of the directory that it hides; where there is none, everybody may write.
            mode = 0o1777 if new else stat.S_IMODE(os.fstat(target).st_mode)
            data = [*data, f"mode={mode:o}"]
        source = str(entry.get("source") or kind)
        attributes = options.set & ~late_read_only
        if kind == "devpts" and self._mapping:
            # Its groups are the namespace's, as is its multiplexer.
            fd = userns.new_filesystem(self._user, kind, data, attributes)
        else:
            if kind == "tmpfs":
                data = self._host_owners(data)
            fd = mounts.new_filesystem(kind, source, data, attributes)
        if options.propagation:
            mounts.mount_setattr(
                fd, propagation=options.propagation, recursive=options.recursive_propagation
            )
        mounts.move_mount(fd, target)
        os.close(target)
        if destination == "/proc":
            self.proc = fd
        elif destination == "/dev":
            self.dev = fd
        elif destination == "/dev/pts":
            self.pts = fd
        elif destination == "/sys":
            self.sys = fd
        elif not late_read_only:
            os.close(fd)
        if late_read_only:
            self._read_only.append(fd)

    def _host_owners(self, data: list[str]) -> list[str]:
        """A file system's options with the owners' numbers as the host has them."""
        if self._mapping is None:
            return data
        found = []
        for item in data:
            name, _, value = item.partition("=")
            if name in ("uid", "gid") and value.isdecimal():
                translate = self._mapping.uid if name == "uid" else self._mapping.gid
                item = f"{name}={translate(int(value))}"
            found.append(item)
        return found

    def _directory(self, destination: str) -> int:
        """A directory of the root, made if it is missing; those right below our own /dev are
        known to be, which saves the walk."""
        parent, _, name = destination.rpartition("/")
        if parent == "/dev" and self.dev >= 0:
            try:
                os.mkdir(name, 0o755, dir_fd=self.dev)
            except FileExistsError:
                return make_directories(self.fd, destination)
            return openat2(self.dev, name, O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
        return make_directories(self.fd, destination)

    def _is_there(self, destination: str) -> bool:
        try:
            os.close(openat2(self.fd, destination.lstrip("/"), O_PATH, resolve=_INSIDE))
        except OSError:
            return False
        return True

    def directory_of(self, destination: str) -> int:
        """A directory of the root, made if it is missing, whose path has no symbolic link."""
        try:
            target = openat2(
                self.fd,
                destination.lstrip("/"),
                O_PATH | os.O_DIRECTORY,
                resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            )
        except FileNotFoundError:
            os.close(make_directories(self.fd, destination))
            return self.directory_of(destination)
        except OSError as failure:
            if failure.errno in (errno.ELOOP, errno.ENOTDIR):
                raise MountError(
                    errno.ENOTDIR,
                    f"{destination} of the root file system is not a directory: refusing to "
                    "mount there",
                ) from None
            raise
        return target

    def _bind(self, entry: dict[str, Any], destination: str, options: mounts.Attributes) -> None:
        source = str(entry.get("source") or "")
        fd = self._sources.pop(id(entry), -1)
        if fd < 0:
            with self.on_host():
                fd = open_source(source, options.recursive)
        try:
            if self._apart:
                mounts.mount_setattr(fd, propagation=MS_SLAVE, recursive=True)
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                if destination == "/proc":
                    target = self.directory_of(destination)
                else:
                    target = make_directories(self.fd, destination)
            else:
                target = make_file(self.fd, destination)
            if destination == "/proc":
                # One that is seen already, as of the host; nothing that only looks like it.
                with self.on_host():
                    seen = os.stat("/proc").st_dev
                if os.fstat(fd).st_dev != seen:
                    raise MountError(
                        errno.EPERM,
                        f"{source!r} cannot be mounted on /proc because it is not of type proc",
                    )
            else:
                self._keep_out_of_proc(target, destination)
            mounts.apply_attributes(fd, options)
            recursive = "ridmap" in options.data
            if (users := entry.get(ID_MAP)) is not None:
                mounts.mount_setattr(fd, set=MOUNT_ATTR_IDMAP, userns_fd=users, recursive=recursive)
            elif self._mapping and (recursive or "idmap" in options.data):
                userns.idmap(fd, self._user, recursive=recursive)
            mounts.move_mount(fd, target)
            os.close(target)
        finally:
            os.close(fd)

    def _keep_out_of_proc(self, target: int, destination: str) -> None:
        """Refuse a place that is in /proc after all: a link of the root file system led there."""
        if self.proc < 0 or destination in _PROC_OVERRIDES:
            return
        if os.fstat(target).st_dev == os.fstat(self.proc).st_dev:
            raise MountError(
                errno.EPERM, f"{destination!r} cannot be mounted because it is inside /proc"
            )

    def add_cgroup(
        self, entry: dict[str, Any], own: dict[str, str], ready: GroupPlaces | None = None
    ) -> None:
        """Show the control groups: version 2 as itself, version 1 as a directory of hierarchies.

        ``own`` maps each version 1 hierarchy's mount point on the host to the path of the
        container's group in it; empty for version 2.  ``ready`` was made for these mount points.
        """
        destination = "/" + str(entry["destination"]).strip("/")
        options = mounts.parse_options(entry.get("options") or ())
        if not own:
            self._add({**entry, "type": "cgroup2", "source": "cgroup"}, destination)
            return
        places = ready or GroupPlaces(own)
        target = make_directories(self.fd, destination)
        mounts.move_mount(places.base, target)
        os.close(target)
        with self.on_host():
            trees = [mounts.open_tree(AT_FDCWD, point + path) for point, path in own.items()]
        for host_point, tree in zip(own, trees, strict=True):
            mounts.move_mount(tree, places.of[host_point])
            os.close(tree)
        mounts.mount_setattr(
            places.base,
            set=_SAFE | (options.set & MOUNT_ATTR_RDONLY),
            propagation=MS_PRIVATE,
            recursive=True,
        )
        places.close()

    # --- devices ----------------------------------------------------------------------------

    def add_default_devices(self) -> None:
        """Make the device nodes and links of /dev that every container has."""
        if self.dev < 0:
            return
        for name, major, minor in _DEFAULT_DEVICES:
            self._device(self.dev, name, stat.S_IFCHR | 0o666, major, minor, 0, 0)
        for name, target in _LINKS:
            if name != "ptmx" or self.pts >= 0:
                try:
                    os.symlink(target, name, dir_fd=self.dev)
                except FileExistsError:
                    pass

    def add_devices(self, devices: Sequence[dict[str, Any]]) -> None:
        """Make the device nodes that the specification adds."""
        if self.dev >= 0:
            for device in devices:
                self._extra_device(device)

    def _extra_device(self, device: dict[str, Any]) -> None:
        path = str(device["path"])
        kinds = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
        kind = kinds.get(str(device["type"]))
        if kind is None:
            raise MountError(errno.EINVAL, f"device {path}: unknown type {device['type']!r}")
        parent, _, name = path.rpartition("/")
        directory = make_directories(self.fd, parent or "/")
        try:
            mode = kind | int(device.get("fileMode", 0o666)) & 0o7777
            major, minor = int(device.get("major", 0)), int(device.get("minor", 0))
            uid, gid = int(device.get("uid", 0)), int(device.get("gid", 0))
            self._device(directory, name, mode, major, minor, uid, gid)
        finally:
            os.close(directory)

    def _device(
        self, directory: int, name: str, mode: int, major: int, minor: int, uid: int, gid: int
    ) -> None:
        if self.bind_devices:
            self._bind_device(directory, name)
            return
        try:
            os.mknod(name, mode, os.makedev(major, minor), dir_fd=directory)
        except FileExistsError:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            same = found.st_rdev == os.makedev(major, minor)
            if not same or stat.S_IFMT(found.st_mode) != stat.S_IFMT(mode):
                raise MountError(
                    errno.EEXIST, f"the root file system has another file as device {name}"
                ) from None
        except PermissionError:
            self._bind_device(directory, name)
            return
        if self._mapping:
            uid, gid = self._mapping.uid(uid), self._mapping.gid(gid)
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def _bind_device(self, directory: int, name: str) -> None:
        with self.on_host():
            tree = mounts.open_tree(AT_FDCWD, f"/dev/{name}")
        place = make_file(directory, name)
        mounts.move_mount(tree, place)
        os.close(place)
        os.close(tree)

    def open_console(self) -> tuple[int, int]:
        """A terminal of the container's own devpts, also bound on /dev/console: (master, slave)."""
        if self.pts < 0:
            raise MountError(errno.ENODEV, "a terminal needs devpts mounted on /dev/pts")
        ptmx = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=self.pts)
        master, slave = pty.open_pair(ptmx)
        if self.dev >= 0:
            place = make_file(self.dev, "console", 0o600)
            tree = mounts.open_tree(self.pts, str(pty.number(master)))
            mounts.move_mount(tree, place)
            os.close(tree)
            os.close(place)
        return master, slave

    # --- hiding -----------------------------------------------------------------------------

    def _open_hidden(self, path: str) -> int | None:
        """A path to be hidden or made read-only; None if the container has none such."""
        try:
            if path.startswith("/proc/") and self.proc >= 0:
                return openat2(self.proc, path[6:], O_PATH, resolve=_INSIDE)
            return open_in_root(self.fd, path)
        except OSError as failure:
            if failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.EXDEV):
                return None
            raise

    def mask(self, paths: Sequence[str]) -> None:
        """Cover files with /dev/null and directories with an empty, read-only one."""
        null = -1
        for path in paths:
            found = self._open_hidden(path)
            if found is None:
                continue
            # The first cover is attached itself, further ones are copies of it: before Linux 6.15
            # none can be made of a mount that is attached nowhere.
            if stat.S_ISDIR(os.fstat(found).st_mode):
                if self._empty < 0:
                    cover = self._empty = mounts.new_filesystem(
                        "tmpfs", "tmpfs", ["size=0", "mode=755"], MOUNT_ATTR_RDONLY
                    )
                else:
                    cover = mounts.open_tree(self._empty, "")
            elif null < 0:
                cover = null = self._null_device()
            else:
                cover = mounts.open_tree(null, "")
            mounts.move_mount(cover, found)
            if cover not in (self._empty, null):
                os.close(cover)
            os.close(found)
        if null >= 0:
            os.close(null)

    def _null_device(self) -> int:
        """A detached mount of the host's null device."""
        with self.on_host():
            null = mounts.open_tree(AT_FDCWD, os.devnull)
        found = os.fstat(null)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
            os.close(null)
            raise MountError(errno.ENODEV, "/dev/null is not the null device")
        mounts.mount_setattr(null, propagation=MS_PRIVATE)
        return null

    def make_read_only(self, paths: Sequence[str]) -> None:
        """Bind paths upon themselves, read-only."""
        for path in paths:
            found = self._open_hidden(path)
            if found is None:
                continue
            tree = mounts.open_tree(found, "", recursive=True)
            mounts.mount_setattr(tree, set=MOUNT_ATTR_RDONLY, recursive=True)
            mounts.move_mount(tree, found)
            os.close(tree)
            os.close(found)

    def finish(self, *, read_only: bool) -> None:
        """Close the root to writing where asked, after everything has been made in it."""
        for fd in self._read_only:
            mounts.mount_setattr(fd, set=MOUNT_ATTR_RDONLY)
        if read_only:
            mounts.mount_setattr(self.fd, set=MOUNT_ATTR_RDONLY)

    def pivot(self) -> None:
        """Make it the root of the process; the old root is gone afterwards."""
        old = os.open("/", O_PATH | os.O_DIRECTORY)
        os.fchdir(self.fd)
        mounts.pivot_root(".", ".")
        os.fchdir(old)
        mounts.mount("none", ".", "", MS_REC | MS_SLAVE)
        mounts.umount(".", MNT_DETACH)
        os.chdir("/")
        if self.propagation:
            mounts.mount("none", "/", "", self.propagation)
        os.close(old)
