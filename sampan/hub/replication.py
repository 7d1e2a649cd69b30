"""Copies of repositories in other registries: what is pushed here is pushed there.

Each replica has a queue.  At the start all tags that match are offered to it, so that what a crash
or a long absence lost is made up for; then each push is.  Blobs that are there already are not
sent.  Deletions are not copied: a replica may keep more than its source.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
from collections.abc import AsyncIterator

import aiohttp

from sampan.errors import SampanError
from sampan.hub.activity import Event
from sampan.hub.config import Replica
from sampan.hub.manifests import is_stored
from sampan.hub.records import Records
from sampan.hub.storage import BlobStorage
from sampan.image.manifest import Manifest
from sampan.image.reference import DEFAULT_DOMAIN, Reference
from sampan.registry import manifests
from sampan.registry.auth import Auth
from sampan.registry.authorizer import repository_scope
from sampan.registry.config import RegistryConfig, endpoints
from sampan.registry.push import put_manifest
from sampan.registry.transport import Remote, make_session
from sampan.registry.uploads import BlobUpload

QUEUED = 10_000
ATTEMPTS = 5
BACKOFF_SECONDS = 2.0
PAGE = 500

_log = logging.getLogger(__name__)


class Replication:
    """The replicas of one hub process."""

    def __init__(
        self, replicas: tuple[Replica, ...], records: Records, storage: BlobStorage
    ) -> None:
        self._records = records
        self._storage = storage
        self._replicas = replicas
        self._queues = {r: asyncio.Queue[tuple[str, str]](QUEUED) for r in replicas}
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        if self._replicas:
            self._session = make_session()
            self._tasks = [asyncio.create_task(self._serve(r)) for r in self._replicas]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._session:
            await self._session.close()

    def tell(self, event: Event) -> None:
        """Queue a push for the replicas that want it."""
        if event.action != "push":
            return
        for replica, queue in self._queues.items():
            if not fnmatch.fnmatchcase(event.repository, replica.pattern):
                continue
            if queue.full():
                _log.warning("replica %s is too slow: a push waits for the next start", replica.url)
                continue
            queue.put_nowait((event.repository, event.reference))

    async def _serve(self, replica: Replica) -> None:
        config = RegistryConfig(default_endpoint=replica.url)
        (endpoint,) = endpoints(config, DEFAULT_DOMAIN)
        auth = Auth(replica.username, replica.password) if replica.username else None
        assert self._session
        remote = Remote(self._session, config, endpoint, auth)
        async for repository, tag in self._everything(replica.pattern):
            await self._deliver(remote, repository, tag)
        while True:
            repository, reference = await self._queues[replica].get()
            await self._deliver(remote, repository, reference)

    async def _everything(self, pattern: str) -> AsyncIterator[tuple[str, str]]:
        last = ""
        while names := await self._records.repositories(last, PAGE, private=True):
            for name in names:
                if fnmatch.fnmatchcase(name, pattern):
                    for tag in await self._records.tags(name):
                        yield name, tag.name
            last = names[-1]

    async def _deliver(self, remote: Remote, repository: str, reference: str) -> None:
        """Copy, with patience; what cannot be copied is logged and left for the next start."""
        for attempt in range(ATTEMPTS):
            try:
                await self._copy(remote, repository, reference)
                return
            except (SampanError, OSError) as exc:
                said = exc
            await asyncio.sleep(BACKOFF_SECONDS * 2**attempt)
        _log.warning("%s:%s was not copied to %s: %s", repository, reference,
                     remote.endpoint.url, said)  # fmt: skip

    async def _copy(self, remote: Remote, repository: str, reference: str) -> None:
        """Copy a manifest, what it names, and what is attached to it."""
        stored = await self._records.manifest(repository, reference)
        if stored is None:
            return
        there = await remote.call(
            "HEAD",
            f"v2/{repository}/manifests/{reference}",
            scopes=(repository_scope(repository, "pull,push"),),
            headers={"Accept": manifests.ACCEPT},
        )
        same = there.headers.get("Docker-Content-Digest") == stored.digest
        if there.status != 200 or not same:
            ref = Reference(DEFAULT_DOMAIN, repository)
            document = manifests.document(stored.content, stored.digest, ref)
            if isinstance(document.value, Manifest):
                await self._copy_blobs(remote, repository, document.value)
            else:
                for child in document.value.manifests:
                    await self._copy(remote, repository, child.digest)
            await put_manifest(remote, repository, reference, document)
        for attached in await self._records.referrers(repository, stored.digest):
            await self._copy(remote, repository, attached.digest)

    async def _copy_blobs(self, remote: Remote, repository: str, image: Manifest) -> None:
        blobs = (image.config, *filter(is_stored, image.layers))
        for blob in {b.digest: b for b in blobs}.values():
            upload = BlobUpload(
                remote, repository, blob, _Source(self._storage), (), lambda count: None
            )
            await upload.run()


class _Source:
    """The hub's own blobs; that they are here is known by the manifest's record."""

    def __init__(self, storage: BlobStorage) -> None:
        self._storage = storage

    def has(self, digest: str) -> bool:
        return True

    def read(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        return self._storage.read(digest, start, end)
