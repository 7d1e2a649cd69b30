"""Pushing an image or an index: blobs first, then configurations, then manifests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, BinaryIO

from sampan.errors import NotFound
from sampan.image import digest as digests
from sampan.image.manifest import Descriptor, Manifest
from sampan.image.reference import Reference
from sampan.progress import Progress, Report
from sampan.registry import failures, manifests, referrers
from sampan.registry.authorizer import repository_scope
from sampan.registry.manifests import Document
from sampan.registry.tasks import task_group
from sampan.registry.transport import Remote
from sampan.registry.uploads import BlobUpload, push_refused

if TYPE_CHECKING:
    from sampan.store.content import ContentStore

READ_BYTES = 1 << 20
Sources = Mapping[str, tuple[Reference, ...]]


class StoreSource:
    """The blobs of a content store."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    def has(self, digest: str) -> bool:
        return self._content.has(digest)

    async def read(self, digest: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Raises DigestMismatch instead of the last bytes when the blob is damaged, if it is read
        from its first byte."""
        hasher = hashlib.new(digests.split(digest)[0]) if start == 0 else None

        def following(file: BinaryIO, size: int) -> bytes:
            data = file.read(size)
            if hasher is not None:
                hasher.update(data)
                if file.tell() == total and hasher.hexdigest() != digests.split(digest)[1]:
                    raise self._damaged(digest)
            return data

        total = self._content.size(digest)
        with self._content.open(digest) as file:
            file.seek(start)
            while start < end:
                data = await asyncio.to_thread(following, file, min(READ_BYTES, end - start))
                if not data:
                    return
                yield data
                start += len(data)

    def _damaged(self, digest: str) -> Exception:
        from sampan.store.content import DamagedBlob

        return DamagedBlob(
            f"the blob {digest} is damaged on disk: pull or load its image again after "
            "system check --repair"
        )


class Push:
    """One push to one repository.  ``slots`` bounds the uploads of the whole client."""

    def __init__(
        self,
        remote: Remote,
        ref: Reference,
        content: ContentStore,
        report: Report,
        sources: Sources,
        slots: asyncio.Semaphore,
    ) -> None:
        self._remote = remote
        self._ref = ref
        self._content = content
        self._source = StoreSource(content)
        self._report = report
        self._sources = sources
        self._slots = slots

    async def run(self, data: bytes) -> Descriptor:
        """Raises NotFound (content is missing here), Unauthorized, Unavailable."""
        self._report(Progress(f"The push refers to repository [{self._ref.name}]"))
        top = manifests.document(data, digests.sha256(data), self._ref)
        images = await self._images(top)
        configs = {i.config.digest: i.config for i in images}
        layers = {layer.digest: layer for i in images for layer in i.layers}
        for digest in configs:
            layers.pop(digest, None)
        await self._push_layers(list(layers.values()))
        async with task_group() as group:
            for config in configs.values():
                group.create_task(self._upload(config, config.size < 0))
        await self._put_manifests(top)
        self._say_done(top)
        return top.descriptor

    async def _images(self, top: Document) -> list[Manifest]:
        """All image manifests below ``top``, from the content store."""
        if isinstance(top.value, Manifest):
            return [top.value]
        found: list[Manifest] = []
        for child in await self._children(top):
            found += await self._images(child)
        return found

    async def _children(self, index: Document) -> list[Document]:
        assert not isinstance(index.value, Manifest)
        found = []
        for child in index.value.manifests:
            if not self._content.has(child.digest):
                if await manifests.exists(self._remote, self._ref.path, child.digest):
                    continue
                raise NotFound(
                    f"cannot push {self._ref.familiar()}: its manifest for {child.platform} "
                    f"({child.digest}) is not here; pull that platform first"
                )
            data = await asyncio.to_thread(self._content.read_bytes, child.digest)
            found.append(manifests.document(data, child.digest, self._ref))
        return found

    async def _push_layers(self, layers: list[Descriptor]) -> None:
        for layer in layers:
            self._report(Progress("Preparing", digests.short(layer.digest)))
        if len(layers) > self._remote.config.max_uploads:
            for layer in layers[self._remote.config.max_uploads :]:
                self._report(Progress("Waiting", digests.short(layer.digest)))
        async with task_group() as group:
            for layer in layers:
                group.create_task(self._upload(layer, True))

    async def _upload(self, blob: Descriptor, shown: bool) -> None:
        short = digests.short(blob.digest)

        def sent(count: int) -> None:
            if shown:
                self._report(Progress("Pushing", short, count, blob.size))

        upload = BlobUpload(
            self._remote, self._ref.path, blob, self._source, self._mountable(blob), sent
        )
        async with self._slots:
            status = await upload.run()
        if shown:
            self._report(Progress(status, short))

    def _mountable(self, blob: Descriptor) -> list[str]:
        """Repositories of the same registry that are known to have the blob."""
        paths = (
            source.path
            for source in self._sources.get(blob.digest, ())
            if source.domain == self._ref.domain and source.path != self._ref.path
        )
        return list(dict.fromkeys(paths))[:3]

    async def _put_manifests(self, top: Document) -> None:
        if not isinstance(top.value, Manifest):
            for child in await self._children(top):
                await self._put_tree(child)
        await self._put(top, self._ref.tag or top.descriptor.digest)

    async def _put_tree(self, document: Document) -> None:
        if not isinstance(document.value, Manifest):
            for child in await self._children(document):
                await self._put_tree(child)
        await self._put(document, document.descriptor.digest)

    async def _put(self, document: Document, name: str) -> None:
        listed = await put_manifest(self._remote, self._ref.path, name, document)
        if document.value.subject is not None and not listed:
            await referrers.announce(self._remote, self._ref, document)

    def _say_done(self, top: Document) -> None:
        tag, descriptor = self._ref.tag or "", top.descriptor
        self._report(
            Progress(f"{tag}: digest: {descriptor.digest} size: {descriptor.size}".lstrip(": "))
        )
        self._report(
            Progress(
                "",
                aux={"Tag": tag, "Digest": descriptor.digest, "Size": descriptor.size},
            )
        )


async def put_manifest(remote: Remote, path: str, name: str, document: Document) -> bool:
    """Store a manifest under a tag or its digest; returns whether the registry lists it as a
    referrer of its subject.  Raises Unauthorized, InvalidParameter, …"""
    answer = await remote.call(
        "PUT",
        f"v2/{path}/manifests/{name}",
        scopes=(repository_scope(path, "pull,push"),),
        headers={"Content-Type": document.descriptor.media_type},
        body=lambda: document.data,
    )
    if answer.status in (401, 403):
        raise push_refused(path, answer)
    if answer.status not in (200, 201, 202):
        what = f"push of {name} to {remote.endpoint.host}/{path}"
        raise failures.of_status(answer.status, answer.body, what)
    return "OCI-Subject" in answer.headers
