"""A layer's tar put into a file and read for its tree, both in one pass over the stream."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO

from sampan.errors import InvalidParameter
from sampan.image.tar import BLOCK, FileCursor, InvalidTar
from sampan.linux.sync import begin_writing
from sampan.store.tree import LayerTree, read_layer

_CHUNK = 1 << 20
_WRITEBACK = 16 << 20


def place_layer(layer: BinaryIO, source: Path | None, target: Path, device: int) -> LayerTree:
    """Have the layer's bytes at ``target``, on disk: by a link if they are a file (``source``)
    already.  Returns its tree, whose data files are numbered from ``device``.  Where the tar ends
    without the padding of its last file, ``target`` has it: a device consists of whole blocks.

    Raises errors.InvalidParameter for a malformed or hostile tar; whatever the stream has to say
    when it ends, as that it is damaged, takes precedence.
    """
    try:
        if source is not None and link_layer(source, target):
            return read_tree(target, device)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            cursor = _PlacingCursor(layer, fd)
            try:
                tree = read_layer(cursor, device)
            finally:
                cursor.drain()
            tree.padded = cursor.padded
            os.fsync(fd)
        finally:
            os.close(fd)
    except InvalidTar as error:
        raise InvalidParameter(f"invalid layer: {error}") from error
    return tree


def link_layer(source: Path, target: Path) -> bool:
    """Whether a layer's file can be linked as it is, to ``target``; it is then."""
    return _is_padded(source) and _linked(source, target)


def read_tree(path: Path, device: int) -> LayerTree:
    """The tree of a layer's tar that is a file.  Raises InvalidTar."""
    with path.open("rb", buffering=0) as file:
        return read_layer(FileCursor(file.fileno(), path.stat().st_size), device)


def copy_sparse(tar: Path, target: Path, tree: LayerTree) -> None:
    """Lay the pieces of sparse files out at their places; what is between stays a hole."""
    with tar.open("rb") as source:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            os.ftruncate(fd, tree.sparse_size)
            for start, end, length in tree.sparse:
                while length:
                    data = os.pread(source.fileno(), min(length, _CHUNK), start)
                    if not data:
                        raise InvalidParameter("invalid layer: the tar is cut short")
                    os.pwrite(fd, data, end)
                    start, end, length = start + len(data), end + len(data), length - len(data)
            os.fsync(fd)
        finally:
            os.close(fd)


def _is_padded(tar: Path) -> bool:
    return tar.stat().st_size % BLOCK == 0


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        return False
    return True


class _PlacingCursor:
    """Over a stream, all of which is written to a file as it passes."""

    def __init__(self, stream: BinaryIO, fd: int) -> None:
        self.position = 0
        self.padded = False
        self._stream = stream
        self._fd = fd
        self._base = 0
        self._window = b""
        self._begun = 0

    def block(self) -> bytes:
        start = self.position - self._base
        block = self._window[start : start + BLOCK]
        if len(block) != BLOCK:
            if not self._reach(self.position + BLOCK):
                if self._end() == self.position:
                    return b""
                raise InvalidTar("the tar is cut short in the middle of a header")
            start = self.position - self._base
            block = self._window[start : start + BLOCK]
        self.position += BLOCK
        return block

    def read(self, size: int) -> bytes:
        if not self._reach(self.position + size):
            raise InvalidTar("the tar is cut short")
        start = self.position - self._base
        self.position += size
        return self._window[start : start + size]

    def skip_to(self, position: int, data_end: int = 0) -> None:
        while self._end() < position:
            self.position = self._end()
            if not self._more():
                if not 0 < data_end <= self._end():
                    raise InvalidTar("the tar is cut short in the middle of a file")
                self._put(bytes(position - self._end()))
                self.padded = True
        self.position = position

    def drain(self) -> None:
        """Write the rest of the stream, to its end."""
        self.position = self._end()
        while self._more():
            self.position = self._end()

    def _end(self) -> int:
        return self._base + len(self._window)

    def _reach(self, end: int) -> bool:
        """Have everything from the position to ``end`` in the window; False when there is less."""
        while self._end() < end:
            if not self._more():
                return False
        return True

    def _more(self) -> bool:
        """Write the next piece; what is before the position leaves the window."""
        data = self._stream.read(_CHUNK)
        if data:
            self._put(data)
        return bool(data)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        rest = self._window[self.position - self._base :]
        self._base = self.position
        self._window = rest + data if rest else data
        if self._end() - self._begun >= _WRITEBACK:
            begin_writing(self._fd, self._begun, self._end() - self._begun)
            self._begun = self._end()
