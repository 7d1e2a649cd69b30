"""Copies of another registry's repositories, kept up to date by a rule.

A round asks the other registry for its repositories and tags, and brings what is missing or has
moved: an index with all its manifests, the blobs that are not here yet, and what is attached
(signatures, bills of materials).  A tag moves here when all of that has arrived, never before.
What is deleted there stays here.  Rounds follow one another with a pause; what failed is tried
again in the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging

from sampan.errors import SampanError, Unavailable
from sampan.hub.config import Replica
from sampan.hub.failures import RegistryError
from sampan.hub.manifests import ManifestWriter, is_stored
from sampan.hub.records import Records
from sampan.hub.uploads import Uploads
from sampan.hub.upstream import bring_blob
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest, decode
from sampan.image.reference import DEFAULT_DOMAIN, Reference, is_repository_path
from sampan.registry import manifests as remote_manifests
from sampan.registry import referrers
from sampan.registry.auth import Auth
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig, endpoints
from sampan.registry.transport import Remote, make_session

MAX_DEPTH = 4
"""How deep indexes of indexes, and attachments of attachments, are followed."""

_log = logging.getLogger(__name__)


class Mirrors:
    """The mirrors of one hub process."""

    def __init__(
        self,
        rules: tuple[Replica, ...],
        pause: float,
        records: Records,
        writer: ManifestWriter,
        uploads: Uploads,
    ) -> None:
        self._rules = rules
        self._pause = pause
        self._records = records
        self._writer = writer
        self._uploads = uploads
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._follow(rule)) for rule in self._rules]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self, rule: Replica) -> None:
        while True:
            try:
                await self.round(rule)
            except (SampanError, OSError) as exc:
                _log.warning("%s was not copied from %s: %s", rule.pattern, rule.url, exc)
            await asyncio.sleep(self._pause)

    async def round(self, rule: Replica) -> None:
        """Bring everything that matches ``rule`` up to date.

        Raises SampanError when the other registry cannot be asked for its repositories.
        """
        config = RegistryConfig(default_endpoint=rule.url)
        auth = Auth(rule.username, rule.password) if rule.username else None
        (endpoint,) = endpoints(config, DEFAULT_DOMAIN)
        async with RegistryClient(config) as client, make_session() as session:
            remote = Remote(session, config, endpoint, auth)
            for repository in await self._repositories(client, rule, auth):
                try:
                    await self._copy_tags(client, remote, repository, auth)
                except (SampanError, OSError) as exc:
                    _log.warning("%s was not copied from %s: %s", repository, rule.url, exc)

    async def _repositories(
        self, client: RegistryClient, rule: Replica, auth: Auth | None
    ) -> list[str]:
        if is_repository_path(rule.pattern):
            # A plain name needs no catalog, which not every registry shows.
            return [rule.pattern]
        every = await client.catalog(DEFAULT_DOMAIN, auth=auth)
        return [
            name
            for name in every
            if is_repository_path(name) and fnmatch.fnmatchcase(name, rule.pattern)
        ]

    async def _copy_tags(
        self, client: RegistryClient, remote: Remote, repository: str, auth: Auth | None
    ) -> None:
        name = Reference(DEFAULT_DOMAIN, repository)
        for tag in await client.tags(name, auth=auth):
            try:
                await self._copy(remote, Reference(DEFAULT_DOMAIN, repository, tag), MAX_DEPTH)
            except (RegistryError, SampanError, OSError) as exc:
                # An immutable tag that moved there, a quota, a part that is missing: the others
                # are still wanted.
                _log.warning("%s:%s was not copied: %s", repository, tag, exc)

    async def _copy(self, remote: Remote, ref: Reference, depth: int) -> None:
        """Bring a manifest, after what it names; then what is attached to it."""
        found = await remote_manifests.get(remote, ref)
        digest = found.descriptor.digest
        reference = ref.tag or digest
        here = await self._records.manifest(ref.path, reference)
        if here is None or here.digest != digest:
            await self._copy_parts(remote, ref.path, found.value, depth)
            await self._writer.put(ref.path, reference, found.data, found.descriptor.media_type)
        if depth:
            await self._copy_attached(remote, ref.path, digest, depth)

    async def _copy_parts(
        self, remote: Remote, repository: str, value: Manifest | Index, depth: int
    ) -> None:
        if isinstance(value, Index):
            for child in value.manifests if depth else ():
                await self._copy_one(remote, repository, child, depth)
            return
        for blob in (value.config, *filter(is_stored, value.layers)):
            if await self._records.blob_size(repository, blob.digest) is None:
                await bring_blob(remote, repository, self._uploads, repository, blob.digest)

    async def _copy_attached(
        self, remote: Remote, repository: str, digest: str, depth: int
    ) -> None:
        subject = Reference(DEFAULT_DOMAIN, repository, None, digest)
        _, data = await referrers.find(remote, subject, "")
        try:
            listed = decode(data)
        except InvalidManifest as exc:
            raise Unavailable(f"the referrers of {digest} cannot be read: {exc}") from exc
        for attached in listed.manifests if isinstance(listed, Index) else ():
            if await self._records.manifest(repository, attached.digest) is None:
                await self._copy_one(remote, repository, attached, depth)

    async def _copy_one(
        self, remote: Remote, repository: str, part: Descriptor, depth: int
    ) -> None:
        ref = Reference(DEFAULT_DOMAIN, repository, None, part.digest)
        await self._copy(remote, ref, depth - 1)
