"""Files into and out of containers: ``cp`` and ``export``, by Docker's rules.

A *path* is one inside of the container, absolute or taken from its root.  With a trailing slash or
``/.`` a symbolic link at its end is followed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any, BinaryIO

from sampan.engine.containers import Containers
from sampan.engine.roots import Roots
from sampan.engine.state import Container
from sampan.engine.threads import pump
from sampan.engine.timestamps import format_time
from sampan.engine.tree_tar import pack
from sampan.engine.tree_untar import Policy, unpack
from sampan.errors import Conflict, DiskFull, InvalidParameter, NotFound
from sampan.image.compression import CorruptStream, decompressed
from sampan.linux.openat2 import O_PATH, open_in_root
from sampan.runtime.userns import Mapping, of_process
from sampan.runtime.users import UnknownUser, read_database, resolve
from sampan.store.bridge import in_thread

_OWN_FILES = (b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf")
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class Archive:
    """Copies between containers and tar streams."""

    def __init__(self, containers: Containers, roots: Roots) -> None:
        self._containers = containers
        self._roots = roots

    async def stat(self, ref: str, path: str) -> dict[str, Any]:
        """What is at ``path``: Docker's ``PathStat``.  Raises NotFound."""
        container = self._get(ref)

        def look() -> dict[str, Any]:
            with self._roots.container(container) as root:
                return _stat(root, path, container)

        return await asyncio.to_thread(look)

    async def get(self, ref: str, path: str) -> tuple[dict[str, Any], AsyncGenerator[bytes, None]]:
        """What is at ``path``, and it as a tar.  Raises NotFound."""
        container = self._get(ref)
        found: dict[str, Any] = {}
        stream = self._pack(container, path, found)
        # The first step only looks: a missing path is an error, not a broken stream.
        await asyncio.to_thread(next, stream)
        self._containers.publish(container.record, "archive-path")
        return found, pump(stream)

    async def put(
        self,
        ref: str,
        path: str,
        stream: AsyncIterable[bytes],
        *,
        strict: bool = False,
        keep_owner: bool = False,
    ) -> None:
        """Unpack a tar (compressed or not) into the directory ``path``.

        :param strict: a directory is never replaced by something else, nor the reverse.
        :param keep_owner: what is made belongs to the container's user.

        Raises NotFound, InvalidParameter, DiskFull.
        """
        container = self._get(ref)

        def work(source: BinaryIO) -> None:
            self._unpack(container, path, source, strict, keep_owner)

        await in_thread(stream, work)
        self._containers.publish(container.record, "extract-to-dir")

    async def export(self, ref: str, latest: int | None = None) -> AsyncGenerator[bytes, None]:
        """The container's root file system, without its volumes, as a tar; ``latest`` is an upper
        limit of the times in it, in nanoseconds since the epoch."""
        container = self._get(ref)
        self._containers.publish(container.record, "export")

        def packed() -> Iterator[bytes]:
            with self._roots.container(container) as root:
                mapping = _mapping(container)
                yield from pack(
                    root, ".", "", enter=lambda _: False, mapping=mapping, latest=latest
                )

        return pump(packed())

    def _get(self, ref: str) -> Container:
        container = self._containers.get(ref)
        if container.record.state.status in ("removing", "dead"):
            raise Conflict(f"container is {container.record.state.status}")
        return container

    def _pack(self, container: Container, path: str, found: dict[str, Any]) -> Iterator[bytes]:
        """Fill ``found`` and yield nothing, then the tar's pieces."""
        # Volumes are part of what people see as the container's files; procfs and the like are not.
        entered = {os.fsencode(m.destination) for m in container.record.mounts if m.shown}
        entered.update(_OWN_FILES)

        def enter(place: bytes) -> bool:
            return any(place == top or place.startswith(top + b"/") for top in entered)

        with self._roots.container(container) as root:
            found.update(_stat(root, path, container))
            absolute, mapping = _absolute(path), _mapping(container)
            yield b""
            if found["mode"] & _GO_TYPES[stat.S_IFDIR]:
                directory = open_in_root(root, absolute, O_PATH | os.O_DIRECTORY)
                try:
                    yield from pack(
                        directory,
                        ".",
                        _base(absolute),
                        path=absolute,
                        enter=enter,
                        mapping=mapping,
                    )
                finally:
                    os.close(directory)
            else:
                above, name = posixpath.split(absolute)
                parent = open_in_root(root, above or "/", O_PATH | os.O_DIRECTORY)
                try:
                    yield from pack(parent, name, name, path=absolute, enter=enter, mapping=mapping)
                finally:
                    os.close(parent)

    def _unpack(
        self, container: Container, path: str, source: BinaryIO, strict: bool, keep_owner: bool
    ) -> None:
        with self._roots.container(container) as root:
            absolute = _absolute(path)
            try:
                place = open_in_root(root, absolute, O_PATH)
            except OSError as error:
                raise _missing(error, path, container) from None
            try:
                if not stat.S_ISDIR(os.fstat(place).st_mode):
                    raise InvalidParameter("extraction point is not a directory")
                self._check_writable(container, _real_path(root, place))
            finally:
                os.close(place)
            owner = _container_user(root, container) if keep_owner else None
            try:
                policy = Policy(strict, owner, _mapping(container))
                unpack(decompressed(source), root, absolute, policy)
            except CorruptStream as error:
                raise InvalidParameter(f"invalid archive: {error}") from None
            except OSError as error:
                if error.errno == errno.EROFS:
                    raise InvalidParameter("container rootfs is marked read-only") from None
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DiskFull(f"no space left on the disk while copying to {path}") from None
                raise

    def _check_writable(self, container: Container, path: str) -> None:
        inside = [
            mount
            for mount in container.record.mounts
            if path == mount.destination or path.startswith(f"{mount.destination}/")
        ]
        if inside:
            deepest = max(inside, key=lambda mount: len(mount.destination))
            if not deepest.point.rw:
                raise InvalidParameter("mounted volume is marked read-only")
        elif container.record.host.readonly_rootfs:
            raise InvalidParameter("container rootfs is marked read-only")


def _stat(root: int, path: str, container: Container) -> dict[str, Any]:
    absolute = _absolute(path)
    follow = absolute.endswith(("/", "/.")) or absolute == "/"
    try:
        flags = O_PATH if follow else O_PATH | os.O_NOFOLLOW
        fd = open_in_root(root, absolute, flags)
    except OSError as error:
        raise _missing(error, path, container) from None
    try:
        info = os.fstat(fd)
        if absolute.endswith("/") and absolute != "/" and not stat.S_ISDIR(info.st_mode):
            raise NotFound(f"not a directory: {path} in container {container.name}")
        target = ""
        if stat.S_ISLNK(info.st_mode):
            target = _link_target(root, fd, absolute)
    finally:
        os.close(fd)
    return {
        "name": _base(absolute),
        "size": info.st_size,
        "mode": go_mode(info.st_mode),
        "mtime": format_time(info.st_mtime_ns),
        "linkTarget": target,
    }


def _link_target(root: int, link: int, absolute: str) -> str:
    """Where a symbolic link leads, as an absolute path in the container."""
    try:
        target = open_in_root(root, absolute, O_PATH)
    except OSError:
        written = os.readlink("", dir_fd=link)
        return posixpath.normpath(posixpath.join(posixpath.dirname(absolute), written))
    try:
        return _real_path(root, target)
    finally:
        os.close(target)


def _real_path(root: int, fd: int) -> str:
    """The path of an open file inside of the root."""
    top = os.readlink(f"/proc/self/fd/{root}")
    full = os.readlink(f"/proc/self/fd/{fd}")
    if top != "/" and full.startswith(top):
        full = full[len(top) :]
    return "/" + full.strip("/")


def _absolute(path: str) -> str:
    """The path from the root; a trailing slash or ``/.`` stays."""
    clean = "/" + posixpath.normpath("/" + path).lstrip("/")
    if clean != "/":
        if path.endswith("/"):
            clean += "/"
        elif path.endswith("/."):
            clean += "/."
    return clean


def _base(absolute: str) -> str:
    """The last component as Go's ``filepath.Base`` has it."""
    return posixpath.basename(absolute.rstrip("/")) or "/"


def _missing(error: OSError, path: str, container: Container) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return NotFound(f"Could not find the file {path} in container {container.name}")
    return error


def _mapping(container: Container) -> Mapping | None:
    """The numbers of a running container's users, whose files are seen through its mounts; on
    disk they are the container's own."""
    if not (container.running and container.pid):
        return None
    try:
        return of_process(container.pid)
    except OSError as error:
        raise Conflict(f"container {container.id} is not running any more") from error


def _container_user(root: int, container: Container) -> tuple[int, int] | None:
    """Numbers of the container's user; None when it is root."""
    if not container.record.config.user:
        return None
    passwd, group = (read_database(root, name) for name in ("/etc/passwd", "/etc/group"))
    try:
        user = resolve(passwd, group, container.record.config.user)
    except UnknownUser as error:
        raise InvalidParameter(str(error)) from None
    return user.uid, user.gid


def go_mode(mode: int) -> int:
    """A file's mode in the bits of Go's ``os.FileMode``."""
    bits = stat.S_IMODE(mode) & 0o777
    for theirs, ours in _GO_BITS.items():
        bits |= ours if mode & theirs else 0
    return bits | _GO_TYPES.get(stat.S_IFMT(mode), 0)
