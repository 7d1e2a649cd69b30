"""A pull-through cache: what is missing under a prefix is fetched from another registry.

A tag is asked for upstream again after a minute; when upstream does not answer, the cached one is
served.  A manifest is cached before its blobs, which come when somebody asks for them; each is
fetched once, however many ask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine

import aiohttp

from sampan.errors import NotFound, SampanError
from sampan.hub import failures
from sampan.hub.config import Upstream
from sampan.hub.manifests import ManifestWriter
from sampan.hub.records import Records
from sampan.hub.uploads import Uploads
from sampan.image.reference import DEFAULT_DOMAIN, Reference
from sampan.registry import manifests as remote_manifests
from sampan.registry.auth import Auth
from sampan.registry.config import RegistryConfig, endpoints
from sampan.registry.transport import Remote, make_session, with_retries

FRESH_SECONDS = 60
OWNER = "@upstream"


class PullThrough:
    """Fetches for one hub process."""

    def __init__(
        self,
        upstreams: tuple[Upstream, ...],
        records: Records,
        writer: ManifestWriter,
        uploads: Uploads,
    ) -> None:
        self._upstreams = upstreams
        self._records = records
        self._writer = writer
        self._uploads = uploads
        self._session: aiohttp.ClientSession | None = None
        self._remotes: dict[str, Remote] = {}
        self._fresh: dict[tuple[str, str], float] = {}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def covers(self, repository: str) -> bool:
        """Whether the repository is a cached one, which nobody may push to."""
        return self._find(repository) is not None

    async def manifest(self, repository: str, reference: str) -> None:
        """Bring a manifest that is missing, or a tag that may have moved.

        Raises RegistryError when upstream refuses and nothing is cached.
        """
        key = (repository, reference)
        if self._fresh.get(key, 0.0) > time.monotonic():
            return
        if ":" in reference and await self._records.manifest(repository, reference):
            return
        try:
            await self._once(key, self._fetch_manifest(repository, reference))
        except NotFound:
            raise failures.manifest_unknown(reference) from None
        except SampanError as exc:
            if await self._records.manifest(repository, reference) is None:
                raise failures.RegistryError(502, "UNAVAILABLE", str(exc)) from exc
        if len(self._fresh) > 100_000:
            self._fresh.clear()
        self._fresh[key] = time.monotonic() + FRESH_SECONDS

    async def blob(self, repository: str, digest: str) -> None:
        """Bring a blob that is missing.  Raises RegistryError."""
        try:
            await self._once((repository, digest), self._fetch_blob(repository, digest))
        except NotFound:
            raise failures.blob_unknown(digest) from None
        except SampanError as exc:
            raise failures.RegistryError(502, "UNAVAILABLE", str(exc)) from exc

    async def close(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        if self._session:
            await self._session.close()

    async def _once(self, key: tuple[str, str], work: Coroutine[None, None, None]) -> None:
        """Share one fetch between all who want the same thing."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(work)
            task.add_done_callback(lambda _: self._running.pop(key, None))
        else:
            work.close()
        await asyncio.shield(task)

    async def _fetch_manifest(self, repository: str, reference: str) -> None:
        remote, path = self._remote(repository)
        tag, digest = (None, reference) if ":" in reference else (reference, None)
        found = await remote_manifests.get(remote, Reference(DEFAULT_DOMAIN, path, tag, digest))
        await self._writer.put(
            repository, reference, found.data, found.descriptor.media_type, complete=False
        )

    async def _fetch_blob(self, repository: str, digest: str) -> None:
        remote, path = self._remote(repository)
        await bring_blob(remote, path, self._uploads, repository, digest)

    def _remote(self, repository: str) -> tuple[Remote, str]:
        found = self._find(repository)
        assert found is not None
        upstream, path = found
        remote = self._remotes.get(upstream.prefix)
        if remote is None:
            if self._session is None:
                self._session = make_session()
            config = RegistryConfig(default_endpoint=upstream.url)
            auth = Auth(upstream.username, upstream.password) if upstream.username else None
            (endpoint,) = endpoints(config, DEFAULT_DOMAIN)
            remote = self._remotes[upstream.prefix] = Remote(self._session, config, endpoint, auth)
        return remote, path

    def _find(self, repository: str) -> tuple[Upstream, str] | None:
        for upstream in self._upstreams:
            prefix = f"{upstream.prefix}/" if upstream.prefix else ""
            if repository.startswith(prefix):
                return upstream, repository[len(prefix) :]
        return None


async def bring_blob(
    remote: Remote, path: str, uploads: Uploads, repository: str, digest: str
) -> None:
    """Fetch a blob of the repository ``path`` elsewhere into ``repository`` here.

    Raises NotFound, Unavailable, and RegistryError when it cannot be stored.
    """
    scopes = remote_manifests.pull_scopes(path)

    async def attempt() -> None:
        async with remote.stream("GET", f"v2/{path}/blobs/{digest}", scopes=scopes) as answer:
            if answer.status != 200:
                raise NotFound(f"upstream does not have {digest}")
            upload = await uploads.begin(repository, OWNER)
            chunks: AsyncIterator[bytes] = answer.content.iter_any()
            await uploads.append(repository, OWNER, upload, chunks)
            await uploads.finish(repository, OWNER, upload, digest)

    await with_retries(remote.config, attempt)
