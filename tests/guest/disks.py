"""A disk that can lose power: an NBD server with a write cache that only a flush empties.

QEMU's guest sees a disk that says it has a volatile cache.  What the guest writes is kept in
memory by sector until it flushes, or writes through (FUA); when the power goes, each cached sector
has either been written meanwhile or is lost, at random, as with a real disk.  The protocol is
NBD's fixed newstyle negotiation and simple replies, no more than QEMU asks for.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import BinaryIO

SECTOR = 512
_MAGIC, _OPTION_MAGIC, _REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
_REQUEST_MAGIC, _SIMPLE_MAGIC = 0x25609513, 0x67446698
_ABORT, _GO = 2, 7
_ACK, _INFO, _UNSUPPORTED = 1, 3, 0x80000001
_HAS_FLAGS, _HAS_FLUSH, _HAS_FUA = 1, 4, 8
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_THROUGH = 1
_REQUEST = struct.Struct(">IHHQQI")
_INVALID = 22


class VolatileDisk:
    """An ext4 file system on such a disk; :attr:`drive` is how QEMU finds it."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self._image = folder / "disk.img"
        self._socket = folder / "nbd"
        self._size = megabytes << 20
        with self._image.open("wb") as out:
            out.truncate(self._size)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self._file = os.open(self._image, os.O_RDWR | os.O_CLOEXEC)
        self._cache: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self.requests = self.flushes = 0
        self.stopped = threading.Event()
        self._left = -1
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._socket))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._idle = threading.Event()
        self._idle.set()

    @property
    def drive(self) -> str:
        return f"format=raw,file.driver=nbd,file.server.type=unix,file.server.path={self._socket}"

    def stop_after(self, requests: int) -> None:
        """From so many writes and flushes on, answer no more; :attr:`stopped` is then set."""
        with self._lock:
            self.stopped.clear()
            self._left = requests

    def lose_power(self, chance: random.Random) -> int:
        """After the guest's end: keep a part of what the cache holds; how many sectors are lost."""
        assert self._idle.wait(30), "the guest is still connected"
        self.stopped.clear()
        with self._lock:
            # Some losses take nearly all, some nearly nothing.
            share = chance.random()
            kept = {at: data for at, data in self._cache.items() if chance.random() < share}
            lost = len(self._cache) - len(kept)
            self._cache = kept
            self._empty()
        return lost

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._listener.close()
        os.close(self._file)

    # the disk

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if not self._cache:
            return data
        found = bytearray(data)
        for at in range(offset, offset + size, SECTOR):
            if (cached := self._cache.get(at)) is not None:
                found[at - offset : at - offset + SECTOR] = cached
        return bytes(found)

    def _write(self, offset: int, data: bytes, through: bool) -> None:
        for at in range(0, len(data), SECTOR):
            if through:
                self._cache.pop(offset + at, None)
            else:
                self._cache[offset + at] = data[at : at + SECTOR]
        if through:
            os.pwrite(self._file, data, offset)

    def _is_time_to_stop(self) -> bool:
        self.requests += 1
        with self._lock:
            self._left -= self._left >= 0
            if self._left == 0:
                self.stopped.set()
        return self.stopped.is_set()

    def _empty(self) -> None:
        for at, data in self._cache.items():
            os.pwrite(self._file, data, at)
        self._cache = {}

    # the protocol

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._idle.clear()
            with connection, connection.makefile("rb") as stream:
                try:
                    if self._negotiate(connection, stream):
                        self._transmit(connection, stream)
                except (EOFError, OSError):
                    pass  # the machine has lost its power
            self._idle.set()

    def _negotiate(self, connection: socket.socket, stream: BinaryIO) -> bool:
        connection.sendall(struct.pack(">QQH", _MAGIC, _OPTION_MAGIC, 3))
        _exactly(stream, 4)
        while True:
            _, option, size = struct.unpack(">QII", _exactly(stream, 16))
            _exactly(stream, size)
            if option == _GO:
                flags = _HAS_FLAGS | _HAS_FLUSH | _HAS_FUA
                info = struct.pack(">HQH", 0, self._size, flags)
                connection.sendall(_reply(option, _INFO, info) + _reply(option, _ACK))
                return True
            if option == _ABORT:
                connection.sendall(_reply(option, _ACK))
                return False
            connection.sendall(_reply(option, _UNSUPPORTED))

    def _transmit(self, connection: socket.socket, stream: BinaryIO) -> None:
        while True:
            _, flags, kind, handle, offset, size = _REQUEST.unpack(_exactly(stream, _REQUEST.size))
            answer, failure = b"", 0
            data = _exactly(stream, size) if kind == _WRITE else b""
            if kind in (_WRITE, _FLUSH) and self._is_time_to_stop():
                _exactly(stream, 1 << 30)  # until the machine ends
            with self._lock:
                if kind == _READ:
                    answer = self._read(offset, size)
                elif kind == _WRITE:
                    self._write(offset, data, bool(flags & _THROUGH))
                elif kind == _FLUSH:
                    self.flushes += 1
                    self._empty()
                elif kind == _DISCONNECT:
                    return
                else:
                    failure = _INVALID
            connection.sendall(struct.pack(">IIQ", _SIMPLE_MAGIC, failure, handle) + answer)


def _reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", _REPLY_MAGIC, option, kind, len(data)) + data


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return bytes(data)
