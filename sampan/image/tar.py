"""A reader of tar for layers: fast, and exact about what layers contain.

It reads v7, ustar, GNU and PAX archives: long names, base-256 numbers, extended attributes
(``SCHILY.xattr`` and ``LIBARCHIVE.xattr``), nanosecond times, and all four GNU encodings of sparse
files.  Names are bytes: a layer may hold names that are not UTF-8.  Owners are numbers; the names
of users and groups mean nothing in an image.

    with path.open("rb") as stream:
        cursor = StreamCursor(stream)
        for entry in entries(cursor):
            if entry.type == REGULAR:
                for chunk in cursor.chunks(entry.stored): ...

Reading is bounded: a header record or a sparse map larger than a megabyte is malformed.
"""

from __future__ import annotations

import base64
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol
from urllib.parse import unquote_to_bytes

BLOCK = 512
REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
_ZERO = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_META_LIMIT = 1 << 20
_CHUNK = 1 << 20
_ID_LIMIT = (1 << 32) - 1
# About the year 2242, and as far back; file systems hold no more, and a tar may say anything.
_TIME_LIMIT = (1 << 33) * 1_000_000_000
_PLAIN_TYPES = frozenset((REGULAR, HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO))
_XATTR = b"SCHILY.xattr."
_XATTR_BASE64 = b"LIBARCHIVE.xattr."


class InvalidTar(ValueError):
    """The stream is not a tar, is cut short, or uses a form that layers do not have."""


class Entry:
    """One member.  ``size`` is the file's length; ``stored`` the bytes of it in the archive, from
    byte ``offset`` on; they differ for sparse files only, whose pieces are in ``sparse`` as
    ``(offset in the file, length)``.  ``mtime`` is in nanoseconds; ``mode`` has permission bits
    only; ``type`` is one of the constants above."""

    __slots__ = (
        "gid",
        "linkname",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "offset",
        "size",
        "sparse",
        "stored",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        name: bytes,
        type: bytes = REGULAR,
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        linkname: bytes = b"",
        major: int = 0,
        minor: int = 0,
        offset: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
        sparse: list[tuple[int, int]] | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.linkname = linkname
        self.major = major
        self.minor = minor
        self.offset = offset
        self.stored = size
        self.xattrs = xattrs
        self.sparse = sparse

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.type!r}, {self.mode:o}, {self.size})"


class Cursor(Protocol):
    """A place in an archive that moves forward."""

    position: int

    def block(self) -> bytes:
        """The next 512 bytes; empty at a clean end."""
        ...

    def read(self, size: int) -> bytes: ...

    def skip_to(self, position: int, data_end: int = 0) -> None:
        """Move on.  The archive may end after ``data_end``, if given, as some writers leave out
        the padding of the last file."""
        ...


class BufferCursor:
    """Over bytes in memory."""

    def __init__(self, buffer: bytes) -> None:
        self._buffer = buffer
        self._end = len(buffer)
        self.position = 0

    def block(self) -> bytes:
        start = self.position
        block = self._buffer[start : start + BLOCK]
        if len(block) != BLOCK:
            if not block:
                return b""
            raise InvalidTar("the tar is cut short in the middle of a header")
        self.position = start + BLOCK
        return block

    def read(self, size: int) -> bytes:
        start = self.position
        if start + size > self._end:
            raise InvalidTar("the tar is cut short")
        self.position = start + size
        return self._buffer[start : start + size]

    def skip_to(self, position: int, data_end: int = 0) -> None:
        if position > self._end:
            if not 0 < data_end <= self._end:
                raise InvalidTar("the tar is cut short in the middle of a file")
            position = self._end
        self.position = position


class FileCursor:
    """Over a file, of which only the headers are read, a small window at a time.  (A mapping is no
    faster, and its pages would count as this process's memory.)"""

    _WINDOW = 4096

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._end = size
        self._base = 0
        self._window = b""
        self.position = 0

    def block(self) -> bytes:
        start = self.position - self._base
        block = self._window[start : start + BLOCK]
        if len(block) != BLOCK:
            self._base = self.position
            self._window = os.pread(self._fd, self._WINDOW, self._base)
            block = self._window[:BLOCK]
            if len(block) != BLOCK:
                if not block:
                    return b""
                raise InvalidTar("the tar is cut short in the middle of a header")
        self.position += BLOCK
        return block

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self.position)
        if len(data) != size:
            raise InvalidTar("the tar is cut short")
        self.position += size
        return data

    def skip_to(self, position: int, data_end: int = 0) -> None:
        # The padding is needed here: the file serves as a device of whole blocks.
        if position > self._end:
            raise InvalidTar("the tar is cut short in the middle of a file")
        self.position = position


class StreamCursor:
    """Over a stream that is read once, in large pieces."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = memoryview(b"")
        self.position = 0

    def block(self) -> bytes:
        if not self._buffer:
            self._fill()
            if not self._buffer:
                return b""
        return self.read(BLOCK)

    def read(self, size: int) -> bytes:
        if len(self._buffer) >= size:
            data = bytes(self._buffer[:size])
            self._buffer = self._buffer[size:]
            self.position += size
            return data
        return b"".join(self.chunks(size))

    def skip_to(self, position: int, data_end: int = 0) -> None:
        for _ in self.chunks(max(data_end or position, self.position) - self.position):
            pass
        while self.position < position:
            if not self._buffer:
                self._fill()
                if not self._buffer:
                    return
            for _ in self.chunks(min(position - self.position, len(self._buffer))):
                pass

    def chunks(self, size: int) -> Iterator[memoryview]:
        """The next ``size`` bytes in pieces that are valid until the next call."""
        while size:
            if not self._buffer:
                self._fill()
                if not self._buffer:
                    raise InvalidTar("the tar is cut short")
            piece = self._buffer[:size]
            self._buffer = self._buffer[len(piece) :]
            self.position += len(piece)
            size -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read to the end of the stream (so that a hash of it is complete)."""
        while True:
            self.position += len(self._buffer)
            self._fill()
            if not self._buffer:
                return

    def _fill(self) -> None:
        self._buffer = memoryview(self._stream.read(_CHUNK))


class _Octals(dict[bytes, int]):
    """Numbers of header fields; few different ones occur, so remember them."""

    def __missing__(self, field: bytes) -> int:
        value = _number(field)
        if len(self) < 4096:
            self[field] = value
        return value


_octals = _Octals()


def _number(field: bytes) -> int:
    """A numeric field: octal text, or base-256 with the top bit set."""
    if field[0] & 0x80:
        raw = bytes((field[0] & 0x7F,)) + field[1:]
        if field[0] & 0x40:
            return int.from_bytes(raw, "big") - (1 << (8 * len(field) - 1))
        return int.from_bytes(raw, "big")
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise InvalidTar(
            f"not a tar, or a damaged one: a header has {field!r} for a number"
        ) from None


def _check(block: bytes, stated: bytes) -> None:
    """Verify the header's checksum.  Adler-32's low half is the byte sum, modulo 65521, plus 1,
    and zlib computes it forty times faster than ``sum``."""
    try:
        expected = int(stated[:6], 8)
    except ValueError:
        expected = _number(stated)
    if zlib.adler32(block) & 0xFFFF == (expected + sum(stated) - 255) % 65521:
        return
    blanked = block[:148] + b"        " + block[156:]
    if expected == sum(blanked) or expected == sum(struct.unpack("512b", blanked)):
        return
    raise InvalidTar("not a tar, or a damaged one: a header's checksum is wrong")


def entries(cursor: Cursor) -> Iterator[Entry]:
    """The members in order.  The consumer may read an entry's data from the cursor before it asks
    for the next; raises InvalidTar."""
    inherited: dict[bytes, bytes] = {}
    pax: dict[bytes, bytes] = {}
    pieces: list[tuple[int, int]] = []
    long_name = long_link = None
    while True:
        block = cursor.block()
        if not block:
            if pax or long_name is not None:
                raise InvalidTar("the tar is cut short after an extended header")
            return
        if block == _ZERO:
            return
        (
            name,
            mode,
            uid,
            gid,
            size_field,
            mtime,
            stated,
            kind,
            link,
            magic,
            _,
            _,
            major,
            minor,
            prefix,
            _,
        ) = (  # fmt: skip
            _HEADER.unpack(block)
        )
        _check(block, stated)
        size = _octals[size_field]
        if size < 0:
            raise InvalidTar("a negative size in a tar header")
        if kind in b"xXgLK":
            if size > _META_LIMIT:
                raise InvalidTar(f"an extended header of {size} bytes (more than a megabyte)")
            data = cursor.read((size + BLOCK - 1) // BLOCK * BLOCK)[:size]
            if kind in b"xX":
                pax, pieces = _pax(data)
            elif kind == b"g":
                inherited.update(_pax(data)[0])
            elif kind == b"L":
                long_name = data.split(b"\0", 1)[0]
            else:
                long_link = data.split(b"\0", 1)[0]
            continue

        name = name.split(b"\0", 1)[0]
        if prefix[0] and magic[:6] == b"ustar\0":
            name = prefix.split(b"\0", 1)[0] + b"/" + name
        if kind not in _PLAIN_TYPES:
            kind = _plain_type(kind, name)
        entry = Entry(
            name,
            kind if kind != b"S" else REGULAR,
            _octals[mode] & 0o7777,
            _octals[uid],
            _octals[gid],
            size,
            _octals[mtime] * 1_000_000_000,
            link.split(b"\0", 1)[0],
        )
        if kind in b"34":
            entry.major, entry.minor = _octals[major], _octals[minor]
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.linkname = long_link
        long_name = long_link = None
        stored = size
        if kind == b"S":
            entry.sparse, entry.size = _gnu_sparse_map(cursor, block)
        if pax or inherited:
            stored = _apply(entry, {**inherited, **pax} if inherited else pax, pieces, cursor)
            pax, pieces = {}, []
        if kind == b"V":
            cursor.skip_to(cursor.position + (stored + BLOCK - 1) // BLOCK * BLOCK)
            continue
        if not (0 <= entry.uid < _ID_LIMIT and 0 <= entry.gid < _ID_LIMIT):
            raise InvalidTar(f"{entry.name!r} has an impossible owner {entry.uid}:{entry.gid}")
        entry.mtime = min(max(entry.mtime, -_TIME_LIMIT), _TIME_LIMIT)
        entry.offset = cursor.position
        if entry.sparse is not None:
            entry.stored = _check_sparse(entry, stored)
        elif entry.type == REGULAR:
            entry.size = entry.stored = stored
        else:
            # Others have no data, whatever their size says (writers put a hard link's there).
            entry.size = entry.stored = stored = 0
        end = entry.offset + (stored + BLOCK - 1) // BLOCK * BLOCK
        yield entry
        if cursor.position != end:
            cursor.skip_to(end, entry.offset + stored)


def _plain_type(kind: bytes, name: bytes) -> bytes:
    if kind == b"\0":
        return DIRECTORY if name.endswith(b"/") else REGULAR
    if kind == b"7":
        return REGULAR
    if kind == b"D":
        return DIRECTORY
    if kind in b"SV":
        return kind
    raise InvalidTar(f"{name!r} has the unsupported tar type {kind!r}")


def _pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """The records of an extended header, and the pieces of a version 0.0 sparse map (the one use
    of repeated keys)."""
    records: dict[bytes, bytes] = {}
    pieces: list[tuple[int, int]] = []
    position = 0
    offset = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        if space < 0:
            if not data[position:].strip(b"\0\n"):
                break
            raise InvalidTar("a malformed extended header")
        digits = data[position:space]
        end = position + (int(digits) if digits.isdigit() else 0)
        if not space < end <= len(data) or data[end - 1] != 10:
            raise InvalidTar("a malformed extended header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise InvalidTar("a malformed extended header")
        if key == b"GNU.sparse.offset":
            offset = _decimal(value)
        elif key == b"GNU.sparse.numbytes":
            pieces.append((offset, _decimal(value)))
        else:
            records[key] = value
        position = end
    return records, pieces


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise InvalidTar(f"a malformed number in an extended header: {value[:40]!r}")
    return int(value)


def _time(value: bytes) -> int:
    """Nanoseconds from ``[-]seconds[.fraction]``."""
    whole, _, fraction = value.partition(b".")
    negative = whole.startswith(b"-")
    seconds = _decimal(whole.lstrip(b"-") or b"0") * 1_000_000_000
    nanos = _decimal((fraction + b"000000000")[:9]) if fraction else 0
    return -(seconds + nanos) if negative else seconds + nanos


def _apply(
    entry: Entry, pax: dict[bytes, bytes], pieces: list[tuple[int, int]], cursor: Cursor
) -> int:
    """Lay the records over the entry; returns the number of bytes that follow in the archive."""
    stored = entry.size if entry.sparse is None else sum(length for _, length in entry.sparse)
    sparse: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if not value and not key.startswith(_XATTR):
            continue
        if key in (b"path", b"linkpath"):
            if b"\0" in value:
                raise InvalidTar(f"a null byte in a {key.decode()} of an extended header")
            if key == b"path":
                entry.name = value
            else:
                entry.linkname = value
        elif key == b"mtime":
            entry.mtime = _time(value)
        elif key == b"size":
            stored = _decimal(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key.startswith(_XATTR):
            entry.xattrs = entry.xattrs or {}
            entry.xattrs[key[len(_XATTR) :]] = value
        elif key.startswith(_XATTR_BASE64):
            name = unquote_to_bytes(key[len(_XATTR_BASE64) :])
            entry.xattrs = entry.xattrs or {}
            if name not in entry.xattrs:
                entry.xattrs[name] = _base64(value)
        elif key.startswith(b"GNU.sparse."):
            sparse[key[11:]] = value
    if entry.name.find(b"\0") >= 0 or entry.linkname.find(b"\0") >= 0:
        raise InvalidTar("a name with a NUL byte in an extended header")
    entry.size = stored
    if sparse or pieces:
        return _apply_sparse(entry, sparse, pieces, cursor, stored)
    return stored


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        raise InvalidTar("a malformed extended attribute") from None


def _apply_sparse(
    entry: Entry,
    sparse: dict[bytes, bytes],
    pieces: list[tuple[int, int]],
    cursor: Cursor,
    stored: int,
) -> int:
    """GNU's PAX encodings: 0.0 (repeated keys), 0.1 (one key), 1.0 (a map before the data)."""
    entry.name = sparse.get(b"name", entry.name)
    if sparse.get(b"major") == b"1":
        before = cursor.position
        entry.sparse = _read_sparse_map(cursor, stored)
        stored -= cursor.position - before
    elif b"map" in sparse:
        numbers = [_decimal(part) for part in sparse[b"map"].split(b",")] if sparse[b"map"] else []
        if len(numbers) % 2:
            raise InvalidTar(f"{entry.name!r} has a malformed sparse map")
        entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=True))
    else:
        entry.sparse = pieces
    real = sparse.get(b"realsize") or sparse.get(b"size")
    if real is None:
        raise InvalidTar(f"{entry.name!r} is sparse and does not say its size")
    entry.size = _decimal(real)
    return stored


def _read_sparse_map(cursor: Cursor, stored: int) -> list[tuple[int, int]]:
    """Version 1.0: a count and pairs as decimal lines, padded to a block."""
    text = b""

    def more() -> None:
        nonlocal text
        if len(text) >= min(stored, _META_LIMIT):
            raise InvalidTar("a malformed sparse map")
        text += cursor.read(BLOCK)

    numbers: list[int] = []
    wanted = 1
    position = 0
    while len(numbers) < wanted:
        end = text.find(b"\n", position)
        if end < 0:
            more()
            continue
        numbers.append(_decimal(text[position:end]))
        position = end + 1
        if len(numbers) == 1:
            wanted = 1 + 2 * numbers[0]
            if wanted > _META_LIMIT:
                raise InvalidTar("a sparse map of more than a megabyte")
    return list(zip(numbers[1::2], numbers[2::2], strict=True))


def _gnu_sparse_map(cursor: Cursor, block: bytes) -> tuple[list[tuple[int, int]], int]:
    """The old GNU form: four pieces in the header, then blocks of 21."""
    pieces: list[tuple[int, int]] = []

    def collect(area: bytes, count: int) -> None:
        for index in range(count):
            at = index * 24
            if area[at] == 0:
                return
            pieces.append((_number(area[at : at + 12]), _number(area[at + 12 : at + 24])))

    collect(block[386:482], 4)
    size = _number(block[483:495])
    extended = block[482]
    while extended:
        more = cursor.block()
        if len(more) != BLOCK or len(pieces) * 24 > _META_LIMIT:
            raise InvalidTar("a malformed sparse map")
        collect(more, 21)
        extended = more[504]
    return pieces, size


def _check_sparse(entry: Entry, stored: int) -> int:
    """The pieces must be in order, inside the file, and add up to the stored bytes."""
    assert entry.sparse is not None
    position = total = 0
    for offset, length in entry.sparse:
        if offset < position or length < 0:
            raise InvalidTar(f"{entry.name!r} has a malformed sparse map")
        position = offset + length
        total += length
    if position > entry.size or total != stored:
        raise InvalidTar(f"{entry.name!r} has a malformed sparse map")
    entry.sparse = [piece for piece in entry.sparse if piece[1]]
    return stored
