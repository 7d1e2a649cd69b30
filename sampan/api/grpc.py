"""Enough of gRPC to refuse every call in words that the client shows.

A BuildKit client that gets no connection at all starts a builder of its own in a container, and
then reports whatever becomes of that.  So the connection is accepted, and each call is answered
with the status UNIMPLEMENTED and a sentence.  HTTP/2 (RFC 9113) as far as that needs it: headers of
requests are not read, those of answers are HPACK literals (RFC 7541, 6.2.2).
"""

from __future__ import annotations

import asyncio
import struct
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
UNIMPLEMENTED = 12
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_LIMIT = 1 << 20


class NotHttp2(ValueError):
    """The client does not speak HTTP/2."""


async def refuse_all(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: str
) -> None:
    """Answer every call with UNIMPLEMENTED and ``message`` until the client ends the connection.

    Raises NotHttp2.
    """
    if await reader.readexactly(len(PREFACE)) != PREFACE:
        raise NotHttp2("the client did not begin with HTTP/2's preface")
    writer.write(_frame(_SETTINGS, 0, 0))
    refusal = _refusal(message)
    while True:
        try:
            kind, flags, stream, payload = await _read(reader)
        except asyncio.IncompleteReadError:
            return
        if kind == _SETTINGS and not flags & _ACK:
            writer.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            writer.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS:
            writer.write(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, refusal))
        elif kind == _DATA and payload:
            # Whatever is sent in vain may still be sent.
            writer.write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
        elif kind == _GOAWAY:
            return
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Type, flags, stream and payload of the next frame."""
    head = await reader.readexactly(9)
    length = int.from_bytes(head[:3], "big")
    if length > _LIMIT:
        raise NotHttp2(f"a frame of {length} bytes")
    stream = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
    return head[3], head[4], stream, await reader.readexactly(length)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _refusal(message: str) -> bytes:
    """The headers of an answer that has nothing else."""
    headers = {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": str(UNIMPLEMENTED),
        "grpc-message": quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"),
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())


def _text(text: str) -> bytes:
    """A string literal: its length, with a prefix of seven bits, and its bytes."""
    raw = text.encode("ascii")
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    rest, length = len(raw) - 127, b"\x7f"
    while rest >= 128:
        length += bytes((rest % 128 + 128,))
        rest //= 128
    return length + bytes((rest,)) + raw
