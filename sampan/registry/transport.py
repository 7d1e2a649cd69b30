"""Requests to one repository: authenticated, retried with back-off, errors as ours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from sampan.errors import SampanError, Unavailable
from sampan.registry import failures
from sampan.registry.auth import Auth
from sampan.registry.authorizer import Authorizer, parse_challenges
from sampan.registry.config import Endpoint, RegistryConfig, endpoints, is_insecure, tls_context

MAX_DOCUMENT_BYTES = 4 << 20
READ_BUFFER_BYTES = 1 << 20
MAX_BACKOFF_SECONDS = 30.0

Body = Callable[[], bytes | AsyncIterator[bytes]]
T = TypeVar("T")


def make_session() -> aiohttp.ClientSession:
    """The connection pool that all repositories of one client share."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=16),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60),
        # A layer that is already gzip must arrive as stored: its digest is of those bytes.
        auto_decompress=False,
        read_bufsize=READ_BUFFER_BYTES,
        headers={"User-Agent": "sampan", "Accept-Encoding": "identity"},
    )


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: str


async def with_retries(
    config: RegistryConfig,
    attempt: Callable[[], Awaitable[T]],
    *,
    on_retry: Callable[[int, SampanError], None] | None = None,
) -> T:
    """Run ``attempt`` until it stops raising Transient, at most ``config.attempts`` times."""
    for number in range(1, config.attempts + 1):
        try:
            return await attempt()
        except failures.Transient as exc:
            if number == config.attempts:
                raise exc.cause from exc
            if on_retry:
                on_retry(number, exc.cause)
            await asyncio.sleep(backoff_seconds(config, number, exc.retry_after))
    raise AssertionError("unreachable")


def backoff_seconds(config: RegistryConfig, number: int, retry_after: float | None) -> float:
    """How long to wait after failed attempt ``number`` (from 1): doubling, with full jitter."""
    if retry_after is not None:
        return min(retry_after, MAX_BACKOFF_SECONDS)
    ceiling = min(config.backoff * 2.0 ** (number - 1), MAX_BACKOFF_SECONDS)
    return random.uniform(ceiling / 2, ceiling)


class Remote:
    """An endpoint with the credentials used at it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        config: RegistryConfig,
        endpoint: Endpoint,
        auth: Auth | None,
        *,
        offline: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.config = config
        self._session = session
        self._contacted = False
        self.authorizer = Authorizer(session, endpoint, auth, self._options, offline=offline)

    async def greet(self) -> None:
        """Ask ``/v2/`` without credentials whether a registry answers here in this protocol.

        Raises CannotConnect or Unavailable.
        """
        url = f"{self.endpoint.url}/v2/"
        try:
            async with self._session.get(url, **self._options(url)) as response:
                status = response.status
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as exc:
            raise failures.of_exception(exc, self.endpoint.host) from exc
        if status == 400 and not self.endpoint.secure:
            raise failures.WrongProtocol(f"registry {self.endpoint.host} wants TLS")
        self._contacted = True

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        scopes: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; the body of the answer is the caller's to read.

        ``url`` may be relative to the endpoint.  A 401 is answered once.  Raises Transient for a
        broken connection and for the statuses that are worth another attempt, also when the
        connection breaks while the caller reads; all other statuses are the caller's.
        """
        target = urljoin(self.endpoint.url + "/", url)
        try:
            response = await self._authorized(method, target, frozenset(scopes), headers, body)
            self._contacted = True
            async with response:
                if response.status in failures.RETRIED_STATUSES:
                    raise await self._transient(response)
                yield response
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as exc:
            cause = failures.of_exception(exc, urlsplit(target).netloc)
            if isinstance(cause, failures.CannotConnect) and not self._contacted:
                # Nobody has ever answered there: waiting would only delay the message.
                raise cause from exc
            raise failures.Transient(cause) from exc

    async def once(
        self,
        method: str,
        url: str,
        *,
        scopes: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        """One request without retries, its (small) answer read.  Raises as :meth:`stream`."""
        async with self.stream(method, url, scopes=scopes, headers=headers, body=body) as response:
            data = await read_document(response)
            return Answer(response.status, response.headers, data, str(response.url))

    async def call(
        self,
        method: str,
        url: str,
        *,
        scopes: Collection[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        """A request with retries.  Raises Unavailable when none of them is answered."""
        return await with_retries(
            self.config,
            lambda: self.once(method, url, scopes=scopes, headers=headers, body=body),
        )

    async def _authorized(
        self,
        method: str,
        url: str,
        scopes: frozenset[str],
        headers: Mapping[str, str] | None,
        body: Body | None,
    ) -> aiohttp.ClientResponse:
        ours = urlsplit(url).netloc == self.endpoint.host
        for final in (False, True):
            sent = dict(headers or {})
            known = self.authorizer.header(scopes) if ours else None
            if known:
                sent["Authorization"] = known
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                headers=sent,
                data=body() if body else None,
                **self._options(url),
            )
            if response.status != 401 or final or not ours:
                return response
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            try:
                better = await self.authorizer.answer(challenges, scopes, known)
            except BaseException:
                response.close()
                raise
            if not better:
                return response
            response.release()
        raise AssertionError("unreachable")

    def _options(self, url: str) -> dict[str, Any]:
        parts = urlsplit(url)
        options: dict[str, Any] = {}
        if proxy := self.config.proxies.for_url(url):
            options["proxy"] = proxy
        if parts.scheme == "https":
            endpoint = self.endpoint
            if parts.netloc != endpoint.host:
                base = f"https://{parts.netloc}"
                endpoint = Endpoint(base, not is_insecure(self.config, parts.netloc))
            options["ssl"] = tls_context(self.config, endpoint)
        return options

    async def _transient(self, response: aiohttp.ClientResponse) -> failures.Transient:
        data = await read_document(response)
        said = failures.explain(response.status, data)
        after = response.headers.get("Retry-After", "")
        return failures.Transient(
            Unavailable(f"registry {self.endpoint.host} says: {said}"),
            float(after) if after.isdecimal() else None,
        )


async def read_document(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; raises Unavailable when it is larger than a document may be."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_DOCUMENT_BYTES:
            response.close()
            raise Unavailable(
                f"registry {response.url.host} sent a document of more than "
                f"{MAX_DOCUMENT_BYTES >> 20} MiB"
            )
    return bytes(data)


async def connect(
    session: aiohttp.ClientSession,
    config: RegistryConfig,
    domain: str,
    auth: Auth | None,
    *,
    push: bool = False,
    offline: bool = False,
) -> list[Remote]:
    """The endpoints of ``domain`` that answer, best first; at least one.

    Raises what the last one failed with.
    """
    candidates = endpoints(config, domain, push=push)
    remotes = [Remote(session, config, e, auth, offline=offline) for e in candidates]
    if len(remotes) == 1:
        return remotes
    answering: list[Remote] = []
    failure: SampanError | None = None
    served: set[str] = set()
    for remote in remotes:
        if remote.endpoint.host in served:
            continue
        try:
            await remote.greet()
        except SampanError as exc:
            # "Refused" says more than "does not speak TLS" about the same host.
            if failure is None or not isinstance(exc, failures.WrongProtocol):
                failure = exc
            continue
        served.add(remote.endpoint.host)
        answering.append(remote)
    if not answering:
        raise failure or Unavailable(f"registry {domain} does not answer")
    return answering
