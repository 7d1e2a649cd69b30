"""Local files as a stream of tar: ustar headers, PAX records for what does not fit them.

Small on purpose: a build of cached steps spends more time on imports than on its context.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
CHUNK = 256 << 10
END = bytes(2 * BLOCK)
_OCTAL_LIMIT = 8**11


def header(
    name: bytes,
    mode: int,
    *,
    size: int = 0,
    mtime: int = 0,
    kind: bytes = b"0",
    link: bytes = b"",
    owner: tuple[int, int] = (0, 0),
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """The header of one member; ``kind`` is tar's type (``5`` a directory, ``2`` a symlink)."""
    records: list[tuple[bytes, bytes]] = []
    if len(name) > 100:
        records.append((b"path", name))
        name = name[:100]
    if len(link) > 100:
        records.append((b"linkpath", link))
        link = link[:100]
    if size >= _OCTAL_LIMIT:
        records.append((b"size", b"%d" % size))
        size = 0
    block = _block(name, mode, size, mtime, kind, link, owner, device)
    if not records:
        return block
    body = b"".join(_record(key, value) for key, value in records)
    head = _block(b"PaxHeaders/entry", 0o644, len(body), 0, b"x", b"", (0, 0), (0, 0))
    return head + body + padding(len(body)) + block


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%s" % (length, rest)


def _block(
    name: bytes,
    mode: int,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes,
    owner: tuple[int, int],
    device: tuple[int, int],
) -> bytes:
    uid, gid = (number if number < 8**7 else 0 for number in owner)
    head = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0" % (mode & 0o7777, uid, gid),
            b"%011o\0%011o\0" % (size, max(0, min(mtime, _OCTAL_LIMIT - 1))),
            b"        ",
            kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
        )
    ).ljust(BLOCK, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of data."""
    return bytes(-size % BLOCK)


class Hardlinks:
    """Which inodes have been written under which name."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], bytes] = {}

    def first(self, info: os.stat_result, name: bytes) -> bytes | None:
        """The name under which this file was written before, or None (and remembers this one)."""
        if info.st_nlink < 2:
            return None
        key = (info.st_dev, info.st_ino)
        if key in self._names:
            return self._names[key]
        self._names[key] = name
        return None


def member(
    path: str,
    name: str,
    info: os.stat_result,
    links: Hardlinks,
    *,
    owner: tuple[int, int] | None = None,
) -> Iterator[bytes]:
    """One file as a tar member called ``name``; sockets are left out, as tar cannot hold them.

    A file that shrinks while it is read is filled with zeros, so that the archive stays whole.
    """
    raw = os.fsencode(name)
    mode = info.st_mode
    when = int(info.st_mtime)
    who = owner if owner is not None else (info.st_uid, info.st_gid)
    if stat.S_ISDIR(mode):
        yield header(raw.rstrip(b"/") + b"/", mode, kind=b"5", owner=who, mtime=when)
    elif stat.S_ISLNK(mode):
        target = os.fsencode(os.readlink(path))
        yield header(raw, 0o777, kind=b"2", link=target, owner=who, mtime=when)
    elif stat.S_ISREG(mode):
        before = links.first(info, raw)
        if before is not None:
            yield header(raw, mode, kind=b"1", link=before, owner=who, mtime=when)
            return
        yield from _regular(path, raw, info, who)
    elif stat.S_ISFIFO(mode):
        yield header(raw, mode, kind=b"6", owner=who, mtime=when)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        kind = b"3" if stat.S_ISCHR(mode) else b"4"
        device = (os.major(info.st_rdev), os.minor(info.st_rdev))
        yield header(raw, mode, kind=kind, owner=who, device=device, mtime=when)


def _regular(path: str, raw: bytes, info: os.stat_result, who: tuple[int, int]) -> Iterator[bytes]:
    size = info.st_size
    with open(path, "rb", buffering=0) as file:
        head = header(raw, info.st_mode, size=size, mtime=int(info.st_mtime), owner=who)
        left = size
        if size <= CHUNK:
            data = file.read(size) if size else b""
            yield head + data.ljust(size, b"\0") + padding(size)
            return
        yield head
        while left:
            data = file.read(min(CHUNK, left))
            if not data:
                data = bytes(min(CHUNK, left))
            left -= len(data)
            yield data
    yield padding(size)


def tree(
    path: str, name: str, links: Hardlinks, *, owner: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """The file at ``path``, with all below it when it is a directory, as ``name``."""
    info = os.lstat(path)
    yield from member(path, name, info, links, owner=owner)
    if stat.S_ISDIR(info.st_mode):
        for entry in sorted(os.listdir(path)):
            yield from tree(f"{path}/{entry}", f"{name}/{entry}", links, owner=owner)
