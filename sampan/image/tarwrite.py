"""A deterministic writer of tar: ustar headers, and PAX records only for what does not fit them.

Names are bytes and are written as they are; owners are numbers without names; times are whole
seconds (as every builder writes them into layers, because tools differ in what they round).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO

from sampan.image.tar import BLOCK, BLOCKDEV, CHAR, DIRECTORY, Entry

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_SMALL = 8**7 - 1
_LARGE = 8**11 - 1
END = bytes(2 * BLOCK)
_LARGE_PIECE = 1 << 18
_GATHERED = 1 << 20


def header(entry: Entry) -> bytes:
    """The header blocks of an entry, its PAX header before it when it needs one."""
    name = entry.name
    if entry.type == DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    records: list[tuple[bytes, bytes]] = []
    prefix = b""
    if len(name) > 100:
        prefix, short = _split(name)
        if not short:
            records.append((b"path", name))
            short = name[:100]
        name = short
    link = entry.linkname
    if len(link) > 100:
        records.append((b"linkpath", link))
        link = link[:100]
    numbers = {}
    for key, value, limit in (
        (b"uid", entry.uid, _SMALL),
        (b"gid", entry.gid, _SMALL),
        (b"size", entry.size, _LARGE),
        (b"mtime", entry.mtime // 1_000_000_000, _LARGE),
    ):
        if not 0 <= value <= limit:
            records.append((key, b"%d" % value))
            value = 0
        numbers[key] = value
    for xattr in sorted(entry.xattrs or ()):
        records.append((b"SCHILY.xattr." + xattr, (entry.xattrs or {})[xattr]))
    fields = (
        name,
        entry.mode & 0o7777,
        numbers[b"uid"],
        numbers[b"gid"],
        numbers[b"size"],
        numbers[b"mtime"],
        entry.type,
        link,
        entry.major if entry.type in (CHAR, BLOCKDEV) else 0,
        entry.minor if entry.type in (CHAR, BLOCKDEV) else 0,
        prefix,
    )
    block = _pack(*fields)
    return _pax(records) + block if records else block


class Gathered:
    """Gathers small pieces, so that a sink is called with large ones.

    The pieces are not to be changed before the next :meth:`flush`.  A sink with a method
    ``write_pieces`` is given them as they are.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._write = getattr(out, "write_pieces", self._joined)
        self._pieces: list[bytes | memoryview] = []
        self._size = 0

    def put(self, data: bytes | memoryview) -> None:
        if len(data) >= _LARGE_PIECE:
            self.flush()
            self._out.write(data)
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _GATHERED:
            self.flush()

    def flush(self) -> None:
        if self._pieces:
            self._write(self._pieces)
            self._pieces.clear()
            self._size = 0

    def _joined(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._out.write(b"".join(pieces))


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of data up to the next block."""
    return bytes(-size % BLOCK)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Prefix and name of the ustar form; ``(b"", b"")`` when the name does not fit it."""
    cut = name.rfind(b"/", 0, min(156, len(name) - 1))
    if cut <= 0 or len(name) - cut - 1 > 100:
        return b"", b""
    return name[:cut], name[cut + 1 :]


def _pack(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes,
    major: int,
    minor: int,
    prefix: bytes,
) -> bytes:
    block = _HEADER.pack(
        name,
        b"%07o" % mode,
        b"%07o" % uid,
        b"%07o" % gid,
        b"%011o" % size,
        b"%011o" % mtime,
        b"        ",
        kind,
        link,
        b"ustar",
        b"00",
        b"",
        b"",
        b"%07o" % major,
        b"%07o" % minor,
        prefix,
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(records: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(_record(key, value) for key, value in records)
    head = _pack(b"PaxHeaders.0", 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0, b"")
    return head + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
