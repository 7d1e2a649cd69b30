"""Options of the ``local`` volume driver: a volume that is a mount of its own.

``type`` and ``device`` are mount(8)'s, ``o`` its option string; ``o=bind`` makes the volume another
name of a host directory, ``type=tmpfs`` a file system in memory, ``type=nfs`` a remote one.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from sampan.errors import InvalidParameter, SampanError
from sampan.linux import mount as kernel
from sampan.linux import mountinfo
from sampan.linux.openat2 import open_in_root
from sampan.runtime.types import Mount

_KNOWN = ("type", "device", "o")


def check(options: Mapping[str, str]) -> None:
    """Raises InvalidParameter for options that can never work."""
    for key in options:
        if key == "size":
            raise InvalidParameter(
                "quota size requested but no quota support: use a type=tmpfs volume with o=size="
            )
        if key not in _KNOWN:
            raise InvalidParameter(f'invalid option: "{key}"')
    if not options:
        return
    if not options.get("device"):
        raise InvalidParameter('missing required option: "device"')
    if not options.get("type") and "bind" not in options.get("o", "").split(","):
        raise InvalidParameter('missing required option: "type"')


def mount(path: Path, options: Mapping[str, str]) -> None:
    """Mount the volume on ``path`` unless it is already.  Blocks (a network file system may)."""
    if is_mount(path):
        return
    kind, device = options.get("type", ""), options["device"]
    words = [word for word in options.get("o", "").split(",") if word]
    if kind in ("none", "bind") or "bind" in words or "rbind" in words:
        kind = "bind"
    elif kind.startswith(("nfs", "cifs")):
        words = [_resolved(word) for word in words]
    try:
        _place(kernel.detached(Mount(kind, device, words)), path)
    except OSError as error:
        raise SampanError(
            f"error while mounting volume '{path}': failed to mount local volume: "
            f"mount {device}:{path}, data: {options.get('o', '')}: {error.strerror}"
        ) from None


def unmount(path: Path) -> None:
    """Undo :func:`mount`; does nothing when ``path`` is no mount."""
    if is_mount(path):
        kernel.umount(str(path), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)


def mount_subpath(volume: Path, subpath: str, target: Path) -> None:
    """Bind the file or directory ``subpath`` of ``volume`` on ``target``, which is made.

    The path is resolved inside of the volume and mounted by descriptor: a symbolic link that a
    container puts there meanwhile leads nowhere else.  Raises InvalidParameter.
    """
    root = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount_tree(root, subpath, target)
    except FileNotFoundError as error:
        raise InvalidParameter(f"cannot access path {volume / subpath}: {error.strerror}") from None
    finally:
        os.close(root)


def mount_tree(root: int, subpath: str, target: Path) -> None:
    """Bind the file or directory ``subpath`` of the directory ``root`` on ``target``.

    Raises FileNotFoundError when it leads nowhere inside of the root.
    """
    try:
        source = open_in_root(root, subpath, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise FileNotFoundError(error.errno, os.strerror(error.errno), subpath) from None
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            target.mkdir(mode=0o700, exist_ok=True)
        else:
            target.touch(mode=0o600)
        _place(kernel.open_tree(source, "", recursive=True), target)
    finally:
        os.close(source)


def unmount_target(target: Path) -> None:
    """Undo :func:`mount_subpath`."""
    unmount(target)
    if target.is_dir():
        target.rmdir()
    else:
        target.unlink(missing_ok=True)


def is_mount(path: Path) -> bool:
    """Whether something is mounted on ``path``; also true for a bind of the same file system."""
    wanted = os.fsencode(path)
    return any(entry.place == wanted for entry in mountinfo.entries())


def _place(mount_fd: int, path: Path) -> None:
    try:
        kernel.move_mount_to(mount_fd, str(path))
    finally:
        os.close(mount_fd)


def _resolved(word: str) -> str:
    """``addr=HOST`` with the host's address: the kernel's NFS client knows no names."""
    name, equals, host = word.partition("=")
    if name != "addr" or not equals:
        return word
    try:
        return f"addr={socket.getaddrinfo(host, None)[0][4][0]}"
    except OSError as error:
        raise InvalidParameter(
            f"error resolving passed in network volume address: {error}"
        ) from None
