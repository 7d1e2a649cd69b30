"""Streams of a container: attach, by hijack or by websocket, and logs."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote_plus

import msgspec
from aiohttp import WSMsgType, web

from sampan.api import clients, hijack, progress, query, streams, versions
from sampan.engine import Engine
from sampan.engine.attach import detach_keys
from sampan.engine.state import Container
from sampan.engine.timestamps import format_time, parse_time
from sampan.errors import InvalidParameter
from sampan.runtime.logs import Entry
from sampan.runtime.types import AttachRequest

CHUNK = 64 << 10
LOG_CHUNK = 512 << 10


def routes(engine: Engine) -> list[web.RouteDef]:
    """The routes of a container's streams."""

    def named(request: web.Request) -> Container:
        return engine.containers.get(request.match_info["name"])

    def wish(request: web.Request, container: Container) -> AttachRequest:
        return AttachRequest(
            stdin=query.flag(request, "stdin") and container.record.config.open_stdin,
            stdout=query.flag(request, "stdout"),
            stderr=query.flag(request, "stderr"),
            raw=container.record.config.tty,
            detach_keys=detach_keys(
                request.query.get("detachKeys", ""), container.record.config.tty
            ),
        )

    async def attach(request: web.Request) -> web.StreamResponse:
        container = named(request)
        wanted = wish(request, container)
        engine.attach.check(container)
        await request.read()
        tty = container.record.config.tty
        kind = content_type(versions.requested(request), tty)
        connection = hijack.take(request, kind)
        handed_over = False
        try:
            await clients.head_read(request, connection.fd)
            if query.flag(request, "logs"):
                await _replay(container, wanted, connection.fd)
            if query.flag(request, "stream"):
                handed_over = True
                wanted = msgspec.structs.replace(wanted, initial=connection.initial)
                await engine.attach.attach(container, wanted, connection.fd)
        finally:
            if not handed_over:
                os.close(connection.fd)
        return hijack.Done()

    async def _replay(container: Container, wanted: AttachRequest, fd: int) -> None:
        """Write what the container has written so far."""
        entries = engine.logs.read(container, stdout=wanted.stdout, stderr=wanted.stderr)
        async for entry in entries:
            data = entry.data if wanted.raw else streams.frame(entry.stream, entry.data)
            await hijack.send(fd, data)

    async def websocket(request: web.Request) -> web.StreamResponse:
        container = named(request)
        wanted = wish(request, container)
        engine.attach.check(container)
        # A websocket carries no frames: both streams are sent as they are.
        wanted = msgspec.structs.replace(wanted, raw=True)
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.setblocking(False)
        await engine.attach.attach(container, wanted, theirs.detach())
        await _relay(answer, ours)
        return answer

    async def logs(request: web.Request) -> web.StreamResponse:
        container = named(request)
        stdout, stderr = query.flag(request, "stdout"), query.flag(request, "stderr")
        if not stdout and not stderr:
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        engine.logs.check(container)
        details = b""
        if query.flag(request, "details"):
            details = _details(engine.logs.details(container))
        stamps, follow = query.flag(request, "timestamps"), query.flag(request, "follow")
        since = parse_time(request.query.get("since")) or 0
        until = parse_time(request.query.get("until")) or 0
        after = parse_time(request.query.get("after")) or 0
        timed = streams.TIMED in request.headers.get("Accept", "")
        # Pieces of many lines are fast; but bounds and marks go by the time of a line, and who
        # asks for times may break off and come again in the middle of one.
        marked = stamps or bool(details)
        lines = (marked and follow) or (bool(since or until) and (marked or not timed))
        entries = engine.logs.read(
            container,
            stdout=stdout,
            stderr=stderr,
            follow=follow,
            since=since,
            until=until,
            tail=_tail(request),
            after=after,
            lines=lines or query.flag(request, "lines") or (follow and clients.by_line(request)),
        )
        tty = container.record.config.tty
        kind = streams.TIMED if timed else content_type(versions.requested(request), tty)
        answer = await streams.start(request, kind)
        head = _timed if timed else None if tty else _framed
        sending = _send_entries(answer, entries, head, stamps=stamps, details=details)
        await progress.while_connected(request, sending)
        return answer

    return [
        web.post("/containers/{name}/attach", attach),
        web.get("/containers/{name}/attach/ws", websocket, allow_head=False),
        web.get("/containers/{name}/logs", logs, allow_head=False),
    ]


def content_type(version: tuple[int, int], tty: bool) -> str:
    """The media type of a stream: multiplexed since 1.42, unless it is a terminal's."""
    return streams.RAW if tty or version < (1, 42) else streams.MULTIPLEXED


def _tail(request: web.Request) -> int | None:
    text = request.query.get("tail", "all")
    if text in ("", "all"):
        return None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if number >= 0 else None


async def _send_entries(
    answer: web.StreamResponse,
    entries: AsyncIterator[Entry],
    head: Callable[[Entry, int], bytes] | None,
    *,
    stamps: bool,
    details: bytes,
) -> None:
    """Write entries in large pieces, but without holding back what is there.  ``head`` makes what
    goes before an entry's data, from its length."""
    pieces = _Pieces(answer)
    pump = asyncio.create_task(pieces.pump())
    inside: dict[int, bool] = {}
    try:
        async for entry in entries:
            data = entry.data
            if stamps or details:
                before = _stamp(entry.time) + b" " + details if stamps else details
                data = _marked(data, before, inside=inside.get(entry.stream, False))
                inside[entry.stream] = not data.endswith(b"\n")
            if head is not None:
                pieces.add(head(entry, len(data)))
            pieces.add(data)
            if pieces.size >= LOG_CHUNK:
                await pieces.flush()
        await pieces.flush()
    finally:
        pump.cancel()


def _marked(data: bytes, before: bytes, *, inside: bool) -> bytes:
    """``data`` with ``before`` at the beginning of each of its lines; it begins ``inside`` one or
    with one."""
    if data.find(b"\n") < len(data) - 1:
        data = data[:-1].replace(b"\n", b"\n" + before) + data[-1:]
    return data if inside else before + data


def _framed(entry: Entry, length: int) -> bytes:
    return streams.head(entry.stream, length)


def _timed(entry: Entry, length: int) -> bytes:
    return streams.timed_head(entry.stream, length, entry.time)


class _Pieces:
    """Collects small writes as long as the source has more at once."""

    def __init__(self, answer: web.StreamResponse) -> None:
        self.size = 0
        self._answer = answer
        self._pieces: list[bytes] = []
        self._waiting = asyncio.Event()

    def add(self, data: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)
        self._waiting.set()

    async def flush(self) -> None:
        """Write what there is."""
        data, self._pieces, self.size = b"".join(self._pieces), [], 0
        if data:
            await self._answer.write(data)

    async def pump(self) -> None:
        """Flush whenever the source lets the loop run, which it does when it has no more."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            await self.flush()


def _details(attributes: dict[str, str]) -> bytes:
    """As Docker writes them: by name, escaped, and a space even if there are none."""
    pairs = [f"{quote_plus(name)}={quote_plus(attributes[name])}" for name in sorted(attributes)]
    return ",".join(pairs).encode() + b" "


def _stamp(nanoseconds: int) -> bytes:
    """RFC 3339 with all nine digits, as Docker writes into logs."""
    seconds = format_time(nanoseconds // 10**9 * 10**9)[:-1]
    return f"{seconds}.{nanoseconds % 10**9:09}Z".encode()


async def _relay(answer: web.WebSocketResponse, ours: socket.socket) -> None:
    """Carry bytes between a websocket and a socket until either side ends."""
    reader, writer = await asyncio.open_connection(sock=ours)

    async def down() -> None:
        while data := await reader.read(CHUNK):
            await answer.send_bytes(data)

    async def up() -> None:
        async for message in answer:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                data = message.data.encode() if isinstance(message.data, str) else message.data
                writer.write(data)
                await writer.drain()

    tasks = {asyncio.create_task(down()), asyncio.create_task(up())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        # A side that has gone away is how a stream ends, not a failure.
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        # Last, so that the client's answer to the closing handshake is waited for.
        await answer.close()
