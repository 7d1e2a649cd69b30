"""Answers in pieces: JSON lines, raw bytes, and Docker's multiplexed frames."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from aiohttp import web

STDIN, STDOUT, STDERR = 0, 1, 2
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"
TIMED = "application/vnd.sampan.timed-stream"
"""Frames with the time of their data after the length, nanoseconds since the epoch in 8 bytes."""


def frame(stream: int, data: bytes) -> bytes:
    """One frame of a multiplexed stream: stream number, three zero bytes, length, data."""
    return head(stream, len(data)) + data


def head(stream: int, length: int) -> bytes:
    """What goes before the ``length`` bytes of a frame."""
    return struct.pack(">BxxxI", stream, length)


def timed_head(stream: int, length: int, time: int) -> bytes:
    """The same for a stream of the type :data:`TIMED`."""
    return struct.pack(">BxxxIQ", stream, length, time)


async def start(
    request: web.Request, content_type: str = "application/json", status: int = 200
) -> web.StreamResponse:
    """Begin a chunked answer; its head is on the wire when this returns."""
    answer = web.StreamResponse(status=status)
    answer.content_type = content_type
    if request.version >= (1, 1):
        answer.enable_chunked_encoding()
    await answer.prepare(request)
    return answer


async def send_json(answer: web.StreamResponse, value: Any) -> None:
    """Write one JSON document and a line end."""
    await answer.write(msgspec.json.encode(value) + b"\r\n")


def json(value: Any, status: int = 200) -> web.Response:
    """A whole JSON answer, with the line end that Docker writes."""
    body = msgspec.json.encode(value) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")
