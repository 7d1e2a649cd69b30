"""Compression of layers: gzip by isal, zstd by zstandard; recognised by content, not by name."""

from __future__ import annotations

import bz2
import lzma
from typing import BinaryIO, Literal, Protocol, cast

import zstandard
from isal import igzip, isal_zlib

from sampan.image.streams import Wrapped

Algorithm = Literal["gzip", "zstd"]

_GZIP_LEVEL = 2
_ZSTD_LEVEL = 3
_GZIP_HEADER_WINDOW = 31


class CorruptStream(ValueError):
    """A compressed stream is damaged or cut short."""


class TooLarge(CorruptStream):
    """A stream unpacks to more than is allowed."""


_Damaged: tuple[type[BaseException], ...] = (
    EOFError,
    cast(type[BaseException], isal_zlib.error),
    zstandard.ZstdError,
    lzma.LZMAError,
)


class Compressor(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


def recognise(head: bytes) -> str:
    """``gzip``, ``zstd``, ``xz``, ``bzip2`` or ``none``, from the first six bytes."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (
        head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    ):
        return "zstd"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"BZh"):
        return "bzip2"
    return "none"


class _Decompressed(Wrapped):
    """Reads of a decompressor with its library's errors as CorruptStream."""

    def __init__(self, stream: BinaryIO, inner: BinaryIO) -> None:
        super().__init__(stream)
        self._inner = inner

    def read(self, size: int = -1) -> bytes:
        try:
            return self._inner.read(size)
        except _Damaged as error:
            raise CorruptStream(f"the compressed stream is damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise CorruptStream(f"the compressed stream is damaged: {error}") from error

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Prefixed(Wrapped):
    """A stream with bytes that were read from it already put back in front."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._head = head

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(data) :]
            return data
        return self._stream.read(size)


class _Bounded(Wrapped):
    """A stream that refuses to be longer than it may be."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        super().__init__(stream)
        self._limit = limit
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(f"it unpacks to more than the {self._limit} bytes that are allowed")
        return data


def decompressed(stream: BinaryIO, limit: int | None = None) -> BinaryIO:
    """The uncompressed content of a stream of any kind we know; closing it closes the stream.
    Its reads raise CorruptStream, and TooLarge beyond ``limit`` bytes."""
    plain = _decompressed(stream)
    return plain if limit is None else cast(BinaryIO, _Bounded(plain, limit))


def _decompressed(stream: BinaryIO) -> BinaryIO:
    head = b""
    while len(head) < 6 and (more := stream.read(6 - len(head))):
        head += more
    kind = recognise(head)
    whole = cast(BinaryIO, _Prefixed(head, stream))
    if kind == "none":
        return whole
    inner: object
    if kind == "gzip":
        inner = igzip.IGzipFile(fileobj=whole, mode="rb")  # type: ignore[no-untyped-call]
    elif kind == "zstd":
        inner = zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
    elif kind == "xz":
        inner = lzma.LZMAFile(whole)
    else:
        inner = bz2.BZ2File(whole)
    return cast(BinaryIO, _Decompressed(stream, cast(BinaryIO, inner)))


def compressor(algorithm: Algorithm) -> Compressor:
    """A compressor whose output depends on its input alone."""
    if algorithm == "gzip":
        return cast(
            Compressor,
            isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_HEADER_WINDOW),
        )
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
