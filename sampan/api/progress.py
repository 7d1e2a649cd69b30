"""Chunked progress: reports of the engine, from any thread, as Docker's JSON messages.

The answer's head is sent with the first message, so that a failure before it still has a status of
its own; a later one is a message in the stream.  What the client has not read yet is merged: of a
row's transfer only the newest state is kept, so that a slow client costs no memory.  A client that
goes away ends the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from sampan.api import connections, errors, streams
from sampan.progress import Progress, Report

T = TypeVar("T")
Message = dict[str, Any]

INTERVAL = 0.1
"""Seconds between two states of one transfer."""
WATCH = 0.25
"""Seconds between two looks whether the client is still there."""
MAX_PENDING = 10_000
_BAR = 50
_ANNOUNCEMENT = "Pulling from "
"""A message about a tag: its id names no transfer."""


class ClientGone(ConnectionResetError):
    """The client closed its connection before the answer was complete."""


def message(progress: Progress) -> Message:
    """One report as Docker's JSON message."""
    if progress.aux is not None and not progress.status:
        return {"aux": progress.aux}
    body: Message = {"status": progress.status}
    if progress.current or progress.total:
        detail = {"current": progress.current}
        if progress.total:
            detail["total"] = progress.total
        body["progressDetail"] = detail
        body["progress"] = bar(progress.current, progress.total)
    elif progress.id and not progress.status.startswith(_ANNOUNCEMENT):
        body["progressDetail"] = {}
    if progress.id:
        body["id"] = progress.id
    if progress.aux is not None:
        body["aux"] = progress.aux
    return body


def bar(current: int, total: int) -> str:
    """``[====>   ]  1.2MB/3MB``, as clients that draw nothing themselves print it."""
    if total <= 0:
        return human(current)
    filled = min(_BAR, current * _BAR // total)
    head = "=" * filled + (">" if filled < _BAR else "")
    return f"[{head:<{_BAR}}] {human(current):>8}/{human(total)}"


def human(size: float) -> str:
    """Bytes in decimal units with four significant digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.4g}{unit}"
        size /= 1000
    raise AssertionError


def failure(error: BaseException) -> Message:
    """A failure as the last message of a stream."""
    _, text = errors.explain(error)
    detail: Message = {"message": text}
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        detail["code"] = code
    return {"errorDetail": detail, "error": text}


class Stream:
    """Messages on their way to one client."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._pending: dict[object, Message] = {}
        self._serial = 0
        self._wake = asyncio.Event()
        self._sent: dict[object, float] = {}
        self.answer: web.StreamResponse | None = None

    def report(self, progress: Progress) -> None:
        """Take one report; callable from any thread."""
        body = message(progress)
        transfer = bool(progress.total) and progress.current < progress.total
        key = (progress.id, progress.status) if transfer else None
        self._hand_over(body, key)

    def send(self, body: Message) -> None:
        """Take a message as it is; callable from any thread."""
        self._hand_over(body, None)

    def _hand_over(self, body: Message, key: object) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._take(body, key)
        else:
            self._loop.call_soon_threadsafe(self._take, body, key)

    def _take(self, body: Message, key: object) -> None:
        if key is None:
            self._serial += 1
            key = self._serial
        elif key not in self._pending:
            now = time.monotonic()
            if now - self._sent.get(key, 0.0) < INTERVAL:
                return
            self._sent[key] = now
        if len(self._pending) < MAX_PENDING:
            self._pending[key] = body
        self._wake.set()

    async def flush(self) -> None:
        """Send what is pending."""
        self._wake.clear()
        if not self._pending:
            return
        batch = list(self._pending.values())
        self._pending.clear()
        if self.answer is None:
            self.answer = await streams.start(self._request)
        await self.answer.write(b"".join(msgspec.json.encode(body) + b"\r\n" for body in batch))

    async def pump(self) -> None:
        """Send messages until cancelled.  Raises ClientGone."""
        while True:
            try:
                async with asyncio.timeout(WATCH):
                    await self._wake.wait()
            except TimeoutError:
                pass
            if connections.gone(self._request):
                raise ClientGone("the client closed the connection")
            await self.flush()


async def run(
    request: web.Request,
    work: Callable[[Stream], Awaitable[None]],
    *,
    failure_message: Callable[[BaseException], Message] = failure,
    in_stream: bool = False,
) -> web.StreamResponse:
    """Do ``work`` and answer with the messages that it sends.

    Work that fails before it has sent anything raises, or with ``in_stream`` is a message all the
    same; it is cancelled when the client goes away.
    """
    stream = Stream(request)
    task = asyncio.ensure_future(work(stream))
    pump = asyncio.ensure_future(stream.pump())
    try:
        await asyncio.wait((task, pump), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed the connection") from pump.exception()
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        error = task.exception()
        if error is not None:
            if stream.answer is None and not stream._pending and not in_stream:
                raise error
            stream.send(failure_message(error))
        await stream.flush()
        if stream.answer is None:
            stream.answer = await streams.start(request)
        await stream.answer.write_eof()
        return stream.answer
    finally:
        for running in (task, pump):
            running.cancel()
        await asyncio.gather(task, pump, return_exceptions=True)


async def while_connected(request: web.Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away.

    Raises ClientGone.
    """
    task = asyncio.ensure_future(work)
    departure = connections.departure(request)
    try:
        await asyncio.wait((task, departure), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed the connection")
        return task.result()
    finally:
        departure.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def reporter(stream: Stream, quiet: bool = False) -> Report:
    """Where the engine reports to; a quiet request gets only the results."""

    def quietly(progress: Progress) -> None:
        if progress.aux is not None:
            stream.send({"aux": progress.aux})

    return quietly if quiet else stream.report
