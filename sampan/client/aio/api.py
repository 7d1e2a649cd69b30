"""The Engine API as requests and answers of JSON values, on an event loop.

Connections that are idle are used again; each request that is under way has its own, so tasks may
share one :class:`AsyncApi`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from sampan import wirejson
from sampan.client.aio.http import Body, Connection, Response, connect
from sampan.client.api import Objects, message_of, target
from sampan.client.failures import ConnectionFailed, by_status
from sampan.client.hosts import Host

Query = Mapping[str, object]

IDLE = 4
"""How many idle connections are kept."""


class AsyncApi:
    """Requests to one daemon; ``timeout`` bounds each read in seconds."""

    def __init__(self, host: Host, *, timeout: float | None = None) -> None:
        self.host = host
        self._timeout = timeout
        self._idle: list[Connection] = []

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _dial(self) -> Connection:
        try:
            return await connect(self.host, self._timeout)
        except ConnectionFailed as failure:
            if not self.host.own:
                raise
            from sampan.client.start import ensure_daemon

            await asyncio.to_thread(ensure_daemon, self.host, failure)
            return await connect(self.host, self._timeout)

    async def _exchange(
        self, method: str, where: str, headers: Mapping[str, str], body: Body | None
    ) -> Response:
        while self._idle and (body is None or isinstance(body, bytes)):
            connection = self._idle.pop()
            try:
                return await self._ask(connection, method, where, headers, body)
            except ConnectionFailed:
                # An idle connection may have been closed by the daemon meanwhile.
                if method not in ("GET", "HEAD"):
                    raise
        return await self._ask(await self._dial(), method, where, headers, body)

    async def _ask(
        self,
        connection: Connection,
        method: str,
        where: str,
        headers: Mapping[str, str],
        body: Body | None,
    ) -> Response:
        try:
            return await connection.request(method, where, headers, body)
        except BaseException:
            connection.close()
            raise

    async def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        json: object = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request, check the status, and return the answer with its body unread.

        :raises SampanError: by status, with the daemon's message.
        """
        sent = dict(headers or {})
        if json is not None:
            body = wirejson.dumps(json).encode("utf-8", "surrogateescape")
            sent.setdefault("Content-Type", "application/json")
        response = await self._exchange(method, target(path, query), sent, body)
        if response.status >= 400 or response.status == 304:
            async with response:
                data = await response.read()
            raise by_status(response.status, message_of(response.status, data))
        return response

    async def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        json: object = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """A request with a short answer: its JSON value, its text, or None for an empty one."""
        response = await self.open(method, path, query, json=json, body=body, headers=headers)
        try:
            data = await response.read()
        finally:
            self._keep(response)
        if not data:
            return None
        if response.headers.get("content-type", "").startswith("application/json"):
            return wirejson.loads(data)
        return data.decode("utf-8", "replace")

    async def get(self, path: str, query: Query | None = None) -> Any:
        return await self.call("GET", path, query)

    async def post(self, path: str, query: Query | None = None, json: object = None) -> Any:
        return await self.call("POST", path, query, json=json)

    async def delete(self, path: str, query: Query | None = None) -> Any:
        return await self.call("DELETE", path, query)

    def _keep(self, response: Response) -> None:
        connection = response.connection
        if response.complete and connection.reusable and len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            response.close()

    async def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[bytes]:
        """The body of an answer as it arrives."""
        async with await self.open(method, path, query, body=body, headers=headers) as response:
            async for chunk in response.chunks():
                yield chunk

    async def messages(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of a streaming answer, one by one."""
        found = Objects()
        async for chunk in self.stream(method, path, query, body=body, headers=headers):
            for value in found.feed(chunk):
                yield value
        for value in found.end():
            yield value

    async def hijack(self, path: str, *, json: object = None) -> Response:
        """POST, asking to turn the connection into a raw stream; see :meth:`Response.raw`."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        return await self.open("POST", path, json=json, headers=upgrade)

    async def ping(self) -> None:
        """Return when the daemon answers."""
        await self.call("HEAD", "/_ping")
