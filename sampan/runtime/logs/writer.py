"""The keeper's side: append a container's output to its log, rotating by size."""

from __future__ import annotations

import mmap
import os
import time
from typing import Protocol

import msgspec

from sampan.runtime.logs import frames
from sampan.runtime.logs.frames import HEADER, TRAILER
from sampan.runtime.types import LogConfig

_LONGEST_LINE = 16 * 1024
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_BEFORE = b'{"log":'
_NAMES = {1: "stdout", 2: "stderr"}


class Writer(Protocol):
    """Takes output as it was read; ``time`` is nanoseconds since the epoch."""

    def write(self, stream: int, data: bytes, time: int) -> None: ...

    def close(self) -> None: ...


class NullWriter:
    """The ``none`` driver."""

    def write(self, stream: int, data: bytes, time: int) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Nothing to finish."""


class _Files:
    """The current file and its predecessors ``path.1`` (newest) to ``path.N``."""

    def __init__(self, config: LogConfig) -> None:
        self._config = config
        self._fd = os.open(config.path, _OPEN, 0o640)
        self.size = os.fstat(self._fd).st_size

    def append(self, parts: list[bytes]) -> None:
        """Append whole records.  A full disk loses them; the container goes on."""
        length = sum(map(len, parts))
        if self._config.max_size and self.size and self.size + length > self._config.max_size:
            self._rotate()
        try:
            written = os.writev(self._fd, parts)
        except OSError:
            return
        if written < length:
            # A torn record would hide all that follow: take it back.
            os.ftruncate(self._fd, self.size)
            return
        self.size += written

    def _rotate(self) -> None:
        path, count = self._config.path, max(1, self._config.max_file)
        os.close(self._fd)
        if self._config.compress and count > 1:
            self._shift_compressed(path, count)
        else:
            for number in range(count - 1, 0, -1):
                older = path if number == 1 else f"{path}.{number - 1}"
                try:
                    os.replace(older, f"{path}.{number}")
                except FileNotFoundError:
                    continue
            if count == 1:
                os.unlink(path)
        self._fd = os.open(path, _OPEN, 0o640)
        self.size = os.fstat(self._fd).st_size

    def _shift_compressed(self, path: str, count: int) -> None:
        # Few containers need it, and only from now on.
        from sampan.runtime.logs import compress

        with compress.Turn(path):
            for number in range(count - 1, 1, -1):
                compress.shift(f"{path}.{number - 1}", f"{path}.{number}")
            os.replace(path, f"{path}.1")
        compress.start(path, count)

    def truncate_torn_tail(self) -> None:
        """Drop an incomplete last frame, left by a keeper that was killed while it wrote."""
        if not self.size:
            return
        fd = os.open(self._config.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with mmap.mmap(fd, self.size, prot=mmap.PROT_READ) as content:
                view = memoryview(content)
                try:
                    if next(frames.backward(view, self.size), None) is not None:
                        return
                    good = 0
                    for frame in frames.forward(view, 0, self.size):
                        good = frame.next
                finally:
                    view.release()
        finally:
            os.close(fd)
        os.ftruncate(self._fd, good)
        self.size = good

    def close(self) -> None:
        os.close(self._fd)


class LocalWriter:
    """The ``local`` driver: one frame for each chunk."""

    def __init__(self, config: LogConfig) -> None:
        self._files = _Files(config)
        self._files.truncate_torn_tail()

    def write(self, stream: int, data: bytes, time: int) -> None:
        length = len(data)
        self._files.append([HEADER.pack(length, stream, 0, 0, time), data, TRAILER.pack(length)])

    def close(self) -> None:
        self._files.close()


class JsonWriter:
    """The ``json-file`` driver: one JSON object a line; longer lines in 16 KiB parts."""

    def __init__(self, config: LogConfig) -> None:
        self._files = _Files(config)
        self._attributes = config.attributes
        self._pending = {1: b"", 2: b""}
        self._times = {1: 0, 2: 0}

    def write(self, stream: int, data: bytes, time: int) -> None:
        *lines, rest = (self._pending[stream] + data).split(b"\n")
        after = self._after(stream, time)
        records: list[bytes] = []
        for line in lines:
            while len(line) > _LONGEST_LINE:
                records += (_BEFORE, _quoted(line[:_LONGEST_LINE]), after)
                line = line[_LONGEST_LINE:]
            records += (_BEFORE, _quoted(line + b"\n"), after)
        while len(rest) > _LONGEST_LINE:
            records += (_BEFORE, _quoted(rest[:_LONGEST_LINE]), after)
            rest = rest[_LONGEST_LINE:]
        self._pending[stream] = rest
        self._times[stream] = time
        if records:
            self._files.append([b"".join(records)])

    def _after(self, stream: int, time: int) -> bytes:
        """What follows the text in a record; the same for all lines of a chunk."""
        fields: dict[str, object] = {"stream": _NAMES[stream]}
        if self._attributes:
            fields["attrs"] = self._attributes
        fields["time"] = rfc3339(time)
        return b"," + msgspec.json.encode(fields)[1:] + b"\n"

    def close(self) -> None:
        for stream, rest in self._pending.items():
            if rest:
                after = self._after(stream, self._times[stream])
                self._files.append([_BEFORE, _quoted(rest), after])
        self._files.close()


def _quoted(text: bytes) -> bytes:
    return msgspec.json.encode(text.decode(errors="replace"))


def rfc3339(nanoseconds: int) -> str:
    """Docker's form of a time: UTC with nanoseconds."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def open_writer(config: LogConfig) -> Writer:
    """The writer of the configured driver.  Raises OSError if the file cannot be opened."""
    if config.driver == "local":
        return LocalWriter(config)
    if config.driver == "json-file":
        return JsonWriter(config)
    return NullWriter()
