"""The Engine API as requests and answers of JSON values.

An :class:`Api` keeps one idle connection; a request that outlives the next one (a stream, a wait,
a hijacked attach) opens its own.
"""

from __future__ import annotations

from sampan import wirejson
from sampan.client.dial import dial
from sampan.client.failures import ConnectionFailed, OperationFailed, by_status
from sampan.client.http import Connection, quote
from sampan.errors import NotModified, SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from sampan.client.dial import Socket
    from sampan.client.hosts import Host
    from sampan.client.http import Response

    Query = Mapping[str, object]


AT_ONCE = 16
"""How many requests :meth:`Api.together` has under way."""


def target(path: str, query: Query | None) -> str:
    """``path`` (quoted already) with ``query``: true is 1, false and None are left out, lists
    repeat the key, dicts are JSON."""
    pairs = []
    for key, value in (query or {}).items():
        if value is None or value is False:
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            if item is True:
                text = "1"
            elif isinstance(item, dict):
                text = wirejson.dumps(item)
            else:
                text = str(item)
            pairs.append(f"{key}={quote(text)}")
    return f"{path}?{'&'.join(pairs)}" if pairs else path


class Api:
    """Requests to one daemon."""

    def __init__(
        self,
        host: Host,
        *,
        version: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.host = host
        self._prefix = f"/v{version.removeprefix('v')}" if version else ""
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._idle: Connection | None = None

    def close(self) -> None:
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    # Connections.

    def dial(self) -> Socket:
        """A new connection, starting the local daemon if need be."""
        if not self.host.own:
            return dial(self.host, self._timeout)
        try:
            return dial(self.host, self._timeout)
        except ConnectionFailed as failure:
            from sampan.client.start import ensure_daemon

            ensure_daemon(self.host, failure)
            return dial(self.host, self._timeout)

    def _exchange(
        self,
        method: str,
        path: str,
        query: Query | None,
        headers: Mapping[str, str] | None,
        body: bytes | Iterable[bytes] | None,
        meanwhile: Callable[[], object] | None = None,
    ) -> tuple[Connection, Response]:
        all_headers = {**self._headers, **(headers or {})}
        where = self._prefix + target(path, query)
        connection, self._idle = self._idle, None
        if connection is not None and (body is None or isinstance(body, bytes)):
            try:
                return connection, connection.request(method, where, all_headers, body)
            except ConnectionFailed:
                # An idle connection may have been closed by the daemon meanwhile.
                connection.close()
                if method not in ("GET", "HEAD"):
                    raise
        elif connection is not None:
            connection.close()
        connection = Connection(self.dial())
        connection.send(method, where, all_headers, body)
        if meanwhile is not None:
            meanwhile()
        return connection, connection.answer(method)

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Response:
        """Send a request, check the status, and return the answer with its body unread.

        ``meanwhile`` is work for the time in which the daemon works; it must not be needed.

        :raises SampanError: by status, with the daemon's message.
        """
        sent = dict(headers or {})
        if json is not None:
            body = wirejson.dumps(json).encode("utf-8", "surrogateescape")
            sent.setdefault("Content-Type", "application/json")
        connection, response = self._exchange(method, path, query, sent, body, meanwhile)
        if response.status >= 400 or response.status == 304:
            data = response.read()
            connection.close()
            raise by_status(response.status, message_of(response.status, data))
        return response

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        json: object = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Any:
        """A request with a short answer: its JSON value, its text, or None for an empty one."""
        response = self.open(
            method, path, query, json=json, body=body, headers=headers, meanwhile=meanwhile
        )
        data = response.read()
        self._keep(response)
        if not data:
            return None
        if response.headers.get("content-type", "").startswith("application/json"):
            return wirejson.loads(data)
        return data.decode("utf-8", "replace")

    def get(self, path: str, query: Query | None = None) -> Any:
        return self.call("GET", path, query)

    def post(self, path: str, query: Query | None = None, json: object = None) -> Any:
        return self.call("POST", path, query, json=json)

    def delete(self, path: str, query: Query | None = None) -> Any:
        return self.call("DELETE", path, query)

    def head(self, path: str, query: Query | None = None) -> dict[str, str]:
        """The headers of the answer to a HEAD request."""
        response = self.open("HEAD", path, query)
        self._keep(response)
        return response.headers

    def _keep(self, response: Response) -> None:
        connection = response._connection
        if connection.reusable and self._idle is None:
            self._idle = connection
        else:
            connection.close()

    def together(
        self, requests: Iterable[tuple[str, str, Query | None]]
    ) -> Iterator[SampanError | None]:
        """Send several requests at once, each on a connection of its own.

        Yields, in order, None for a success (304 is one) and the error for a failure.
        """
        waiting = list(requests)
        if len(waiting) == 1:
            yield self._outcome(lambda: self.call(*waiting[0]))
            return
        while waiting:
            now, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            sent = []
            for method, path, query in now:
                connection = Connection(self.dial())
                connection.send(method, self._prefix + target(path, query), self._headers)
                sent.append(connection)
            for connection in sent:
                yield self._outcome(lambda given=connection: _finish(given))  # type: ignore[misc]

    def _outcome(self, act: Callable[[], object]) -> SampanError | None:
        try:
            act()
        except NotModified:
            return None
        except SampanError as error:
            return error
        return None

    # Streams.

    def messages(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        *,
        json: object = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The JSON objects of a streaming answer, one by one.

        The request is sent before this returns, so that a refusal is raised here.
        """
        return objects(self.open(method, path, query, json=json, body=body, headers=headers))

    def hijack(
        self,
        path: str,
        query: Query | None = None,
        *,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """POST, asking to turn the connection into a raw stream; see :meth:`Response.hijack`."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp", **(headers or {})}
        self.close()
        return self.open("POST", path, query, json=json, headers=upgrade)

    # Facts that several callers need.

    def ping(self) -> dict[str, str]:
        """The headers of ``/_ping``: ``api-version``, ``builder-version``, ``ostype``."""
        return self.head("/_ping")


def _finish(connection: Connection) -> None:
    try:
        response = connection.answer()
        data = response.read()
        if response.status >= 400 or response.status == 304:
            raise by_status(response.status, message_of(response.status, data))
    finally:
        connection.close()


def message_of(status: int, data: bytes) -> str:
    """What the body of a refusal says."""
    try:
        found = wirejson.loads(data)
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return str(found["message"]).rstrip()
    except ValueError:
        pass
    return data.decode("utf-8", "replace").strip() or f"the daemon answered {status}"


class Objects:
    """Takes the JSON objects out of a body, which need not be one a line nor one a chunk."""

    __slots__ = ("_pending", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects that ``chunk`` completes."""
        self._pending += chunk
        # A value may end anywhere, but every producer ends one with a newline or a brace.
        if self._pending[-1:] not in b"\n\r}":
            return
        try:
            text = self._text + self._pending.decode()
        except UnicodeDecodeError:
            return
        self._pending = b""
        position = 0
        while text[position:].strip():
            try:
                value, position = wirejson.scan(text, position)
            except ValueError:
                break
            yield value
        self._text = text[position:]

    def end(self) -> Iterator[dict[str, Any]]:
        """What is left when the body has ended."""
        rest = (self._text + self._pending.decode("utf-8", "replace")).strip()
        if rest:
            yield wirejson.loads(rest)


def objects(response: Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a streaming answer."""
    found = Objects()
    for chunk in response.chunks():
        yield from found.feed(chunk)
    yield from found.end()


def check(message: dict[str, Any]) -> dict[str, Any]:
    """``message``, unless it reports an error, which is raised as OperationFailed."""
    if "error" in message or "errorDetail" in message:
        detail = message.get("errorDetail") or {}
        text = detail.get("message") or message.get("error") or "the operation failed"
        raise OperationFailed(str(text), int(detail.get("code") or 0))
    return message


def checked(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """``messages`` until one of them reports an error, which is raised as OperationFailed."""
    for message in messages:
        yield check(message)
