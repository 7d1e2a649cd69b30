"""The refusal of BuildKit's protocol, frame by frame."""

from __future__ import annotations

import asyncio
import struct

import pytest

from sampan.api.grpc import PREFACE, NotHttp2, refuse_all

SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def headers(stream: int, payload: bytes = b"whatever") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", 1, 4, stream) + payload


async def converse(sent: bytes, message: str) -> list[tuple[int, int, int, bytes]]:
    """The frames that answer ``sent``."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await refuse_all(reader, writer, message)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await done
    frames = []
    while answer:
        length = int.from_bytes(answer[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", answer[3:9])
        frames.append((kind, flags, stream, answer[9 : 9 + length]))
        answer = answer[9 + length :]
    return frames


async def test_every_call_is_refused() -> None:
    ping = b"\0\0\x08\6\0\0\0\0\0" + b"12345678"
    data = b"\0\0\5\0\0\0\0\0\1hello"
    sent = PREFACE + SETTINGS + headers(1) + data + ping + headers(3) + b"\0\0\0\7\0\0\0\0\0"
    frames = await converse(sent, "not “here” 100 %")
    kinds = [(kind, flags, stream) for kind, flags, stream, _ in frames]
    assert kinds == [(4, 0, 0), (4, 1, 0), (1, 5, 1), (8, 0, 0), (6, 1, 0), (1, 5, 3)]
    assert frames[4][3] == b"12345678"
    payload = frames[2][3]
    for text in (
        b"application/grpc",
        b"\x0bgrpc-status\x0212",
        b"not %E2%80%9Chere%E2%80%9D 100 %25",
    ):
        assert text in payload


async def test_a_long_message_has_its_length() -> None:
    frames = await converse(PREFACE + headers(1), "x" * 300)
    # 127 in seven bits, the rest (173) in two bytes of seven each.
    assert b"\x7f\xad\x01" + b"x" * 300 in frames[-1][3]


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
                                  PREFACE + b"\xff\xff\xff\0\0\0\0\0\0"])  # fmt: skip
async def test_others_are_let_go(sent: bytes) -> None:
    with pytest.raises(NotHttp2):
        await converse(sent, "no")
