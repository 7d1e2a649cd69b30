"""The registry client: one object for pull, push and the questions asked of a registry.

Example::

    async with RegistryClient(RegistryConfig()) as client:
        ref = Reference.parse("127.0.0.1:5000/app:1")
        pulled = await client.pull(ref, auth=None, platform=None, content=content, report=ignore)
        image = images.register(pulled.config_bytes, ...)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin

import aiohttp
import msgspec

from sampan.errors import Unauthorized, Unavailable, Unsupported
from sampan.image.manifest import Descriptor, Index, Platform
from sampan.image.reference import DEFAULT_DOMAIN, Reference
from sampan.progress import Report
from sampan.registry import failures, manifests, referrers
from sampan.registry.auth import Auth
from sampan.registry.blobs import Downloads
from sampan.registry.config import RegistryConfig
from sampan.registry.pull import Arrival, LayerComing, OnLayer, Pull, Pulled
from sampan.registry.push import Push, Sources
from sampan.registry.transport import Answer, Remote, connect, make_session

if TYPE_CHECKING:
    from sampan.store.content import ContentStore

__all__ = ["Arrival", "LayerComing", "OnLayer", "Pulled", "RegistryClient", "SearchHit"]

PAGE_SIZE = 1000
CATALOG_SCOPE = "registry:catalog:*"
T = TypeVar("T")


class SearchHit(msgspec.Struct, frozen=True):
    """One result of a search, with Docker's field names."""

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class _SearchResults(msgspec.Struct):
    results: list[SearchHit] = []


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Catalog(msgspec.Struct):
    repositories: list[str] | None = None


class RegistryClient:
    """Pulls, pushes and asks.  Safe for concurrent calls of one event loop; close it when done."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None
        self._downloads = Downloads(config.max_downloads)
        self._uploads = asyncio.Semaphore(config.max_uploads)

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def pull(
        self,
        ref: Reference,
        *,
        auth: Auth | None,
        platform: Platform | None,
        content: ContentStore,
        report: Report,
        on_layer: OnLayer | None = None,
    ) -> Pulled:
        """Fetch the image that ``ref`` names for ``platform`` (None: this machine's).

        Reports Docker's statuses up to "Download complete"; "Extracting", "Pull complete" and the
        closing "Digest:" and "Status:" lines are for whoever unpacks and registers the image.
        ``on_layer`` is awaited for each layer in manifest order, from the lowest, while they are
        on their way: it waits for as much of each as it needs.

        Raises NotFound, Unauthorized, Unavailable, InvalidParameter, DiskFull.
        """
        remotes = await self._connect(ref.domain, auth)
        pull = Pull(remotes, ref, platform, content, self._downloads, report, on_layer)
        return await pull.run()

    async def push(
        self,
        ref: Reference,
        *,
        auth: Auth | None,
        manifest_bytes: bytes,
        content: ContentStore,
        report: Report,
        sources: Sources | None = None,
    ) -> Descriptor:
        """Upload the manifest (or index, with all its manifests) and what it names to ``ref``.

        ``sources`` tells for a blob's digest in which repositories it is known to be; those of the
        same registry are mounted from instead of uploaded.  Reports all of Docker's statuses, with
        the closing digest line and its ``aux``.  Returns the manifest's descriptor.

        Raises NotFound (content is missing here), Unauthorized, Unavailable, InvalidParameter.
        """
        remote = (await self._connect(ref.domain, auth, push=True))[0]
        push = Push(remote, ref, content, report, sources or {}, self._uploads)
        return await push.run(manifest_bytes)

    async def resolve(self, ref: Reference, *, auth: Auth | None) -> tuple[Descriptor, bytes]:
        """The descriptor and bytes of the manifest or index that ``ref`` names.

        Raises NotFound, Unauthorized, Unavailable, InvalidParameter.
        """
        remote = (await self._connect(ref.domain, auth))[0]
        found = await manifests.get(remote, ref)
        return found.descriptor, found.data

    async def platforms(self, ref: Reference, *, auth: Auth | None) -> tuple[Platform, ...]:
        """The platforms that ``ref`` has an image for.  Raises as :meth:`resolve`."""
        remote = (await self._connect(ref.domain, auth))[0]
        found = await manifests.get(remote, ref)
        if isinstance(found.value, Index):
            offered = (m.platform for m in found.value.manifests)
            return tuple(p for p in offered if p and p.architecture != "unknown")
        answer = await remote.call(
            "GET",
            f"v2/{ref.path}/blobs/{found.value.config.digest}",
            scopes=manifests.pull_scopes(ref.path),
        )
        if answer.status != 200:
            raise manifests.pull_failure(ref, answer.status, answer.body)
        try:
            return (msgspec.json.decode(answer.body, type=Platform),)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ()

    async def referrers(
        self, ref: Reference, artifact_type: str = "", *, auth: Auth | None
    ) -> tuple[Descriptor, bytes]:
        """The index of the manifests that refer to the one that ``ref`` names (distribution-spec
        1.1, "Listing Referrers"; by its tag schema where the registry has no such list).
        ``artifact_type`` keeps those of one kind.  Raises as :meth:`resolve`."""
        remote = (await self._connect(ref.domain, auth))[0]
        if ref.digest is None:
            ref = ref.with_digest((await manifests.get(remote, ref)).descriptor.digest)
        return await referrers.find(remote, ref, artifact_type)

    @asynccontextmanager
    async def view(self, insecure: str = "") -> AsyncIterator[RegistryClient]:
        """This client; or one that takes the registry ``insecure`` without TLS or unverified."""
        if not insecure:
            yield self
            return
        config = replace(self._config, insecure=(*self._config.insecure, insecure))
        async with RegistryClient(config) as client:
            yield client

    async def tags(self, ref: Reference, *, auth: Auth | None) -> list[str]:
        """All tags of the repository, through all pages."""
        remote = (await self._connect(ref.domain, auth))[0]
        scopes = manifests.pull_scopes(ref.path)
        found: list[str] = []
        async for page in _pages(remote, f"v2/{ref.path}/tags/list?n={PAGE_SIZE}", scopes):
            if page.status != 200:
                raise manifests.pull_failure(replace(ref, tag=None), page.status, page.body)
            found += _decode(remote, page.body, _Tags).tags or []
        return found

    async def catalog(self, domain: str, *, auth: Auth | None) -> list[str]:
        """All repositories of a registry, through all pages."""
        remote = (await self._connect(domain, auth))[0]
        found: list[str] = []
        async for page in _pages(remote, f"v2/_catalog?n={PAGE_SIZE}", (CATALOG_SCOPE,)):
            if page.status != 200:
                raise failures.of_status(page.status, page.body, f"catalog of {domain}")
            found += _decode(remote, page.body, _Catalog).repositories or []
        return found

    async def search(
        self,
        term: str,
        *,
        domain: str = DEFAULT_DOMAIN,
        auth: Auth | None = None,
        limit: int = 25,
    ) -> list[SearchHit]:
        """Ask the registry's ``/v1/search``.  Raises Unsupported when it has none."""
        remote = (await self._connect(domain, auth))[0]
        answer = await remote.call("GET", f"v1/search?q={quote(term, safe='')}&n={limit}")
        if answer.status == 404:
            raise Unsupported(f"registry {remote.endpoint.host} cannot be searched")
        if answer.status != 200:
            raise failures.of_status(answer.status, answer.body, f"search for {term!r}")
        return _decode(remote, answer.body, _SearchResults).results

    async def check_auth(self, domain: str, auth: Auth) -> str:
        """Log in: returns an identity token, or "" when the registry gives none.

        Raises Unauthorized when the credentials are refused, Unavailable.
        """
        remote = (await self._connect(domain, auth, push=True, offline=True))[0]
        answer = await remote.call("GET", "v2/")
        host = remote.endpoint.host
        if answer.status in (401, 403):
            raise Unauthorized(
                f"login attempt to {remote.endpoint.url}/v2/ failed: "
                f"{failures.explain(answer.status, answer.body)}"
            )
        if answer.status != 200:
            raise Unavailable(
                f"registry {host} says: {failures.explain(answer.status, answer.body)}"
            )
        return remote.authorizer.identity_token

    async def _connect(
        self, domain: str, auth: Auth | None, *, push: bool = False, offline: bool = False
    ) -> list[Remote]:
        if self._session is None:
            self._session = make_session()
        return await connect(self._session, self._config, domain, auth, push=push, offline=offline)


async def _pages(remote: Remote, url: str, scopes: tuple[str, ...]) -> AsyncIterator[Answer]:
    """Answers along ``Link: <...>; rel="next"`` headers (RFC 5988)."""
    seen = set()
    while url and url not in seen:
        seen.add(url)
        answer = await remote.call("GET", url, scopes=scopes)
        yield answer
        url = ""
        for part in answer.headers.getall("Link", []):
            target, _, parameters = part.partition(";")
            if 'rel="next"' in parameters or "rel=next" in parameters:
                url = urljoin(answer.url, target.strip().strip("<>"))


def _decode(remote: Remote, body: bytes, model: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=model)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Unavailable(
            f"registry {remote.endpoint.host} sent an answer that is not understood: {exc}"
        ) from exc
