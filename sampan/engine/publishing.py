"""What a push sends: one image, or an index whole; and indexes made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from sampan.engine.images import provides
from sampan.errors import InvalidParameter, NotFound
from sampan.image import manifest as manifests
from sampan.image.digest import Digest
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest, Platform
from sampan.image.reference import Reference
from sampan.progress import Progress, Report
from sampan.registry.auth import Auth
from sampan.registry.client import RegistryClient
from sampan.store.images import Image, ImageStore

_INCOMPLETE = (
    "missing content: {name} is an index of images for several platforms, and not all of them are "
    "here or in the registry: pull the others (pull --platform all), or push one with --platform"
)
_DISCARDED = (
    "missing content: {name} is an index of images for several platforms, and the compressed "
    "layers that it names are not kept here (the setting discard-blobs): push one image with "
    "--platform"
)


class Publisher:
    """Uploads what a tag stands for.  Hold a lease."""

    def __init__(self, store: ImageStore, client: RegistryClient) -> None:
        self._store = store
        self._client = client

    async def push(
        self,
        reference: Reference,
        image: Image,
        platform: Platform | None,
        auth: Auth | None,
        report: Report,
    ) -> Descriptor:
        """Push the tag's index with all its images, or its image; with ``platform`` that variant
        alone.  Raises NotFound, Unauthorized, Unavailable, InvalidParameter."""
        index = None if platform else self._store.indexes.of(reference)
        if index is None or not self._store.content.has(index.digest):
            chosen = self._variant(image, platform)
            return await self._send(reference, await self.manifest_of(chosen), auth, report)
        data = self._store.content.read_bytes(index.digest)
        try:
            return await self._send(reference, data, auth, report)
        except NotFound:
            if self._store.indexes.complete(index):
                raise
        variants = self._store.indexes.variants(reference)
        if len(variants) != 1:
            text = _DISCARDED if self._store.discard_blobs else _INCOMPLETE
            raise NotFound(text.format(name=reference.familiar()))
        only = self._store.get(variants[0].image)
        pushed = await self._send(reference, await self.manifest_of(only), auth, report)
        report(
            Progress(
                "Not all multiplatform-content is present and only the available single-platform "
                f"image was pushed: {index.digest} -> {pushed.digest}"
            )
        )
        return pushed

    async def push_index(
        self,
        reference: Reference,
        data: bytes,
        sources: Mapping[Digest, Reference],
        auth: Auth | None,
        report: Report,
    ) -> Descriptor:
        """Push an index made by hand; ``sources`` says in which repository each of its manifests
        is.  Their blobs are mounted from repositories of the same registry, else brought here
        first.  Raises as :meth:`push`, InvalidParameter for what is no index."""
        try:
            index = manifests.decode(data)
        except InvalidManifest as error:
            raise InvalidParameter(str(error)) from None
        if not isinstance(index, Index):
            raise InvalidParameter("the manifest of one image where an index is expected")
        places: dict[Digest, tuple[Reference, ...]] = {}
        for entry in index.manifests:
            source = sources.get(entry.digest)
            if source is None:
                continue
            named = Reference(source.domain, source.path).with_digest(entry.digest)
            if source.domain != reference.domain:
                await self._bring(named, auth, report)
                continue
            _, document = await self._client.resolve(named, auth=auth)
            await asyncio.to_thread(self._store.content.write_bytes, document)
            value = manifests.decode_manifest(document)
            for blob in (value.config, *value.layers):
                places[blob.digest] = (source,)
        try:
            return await self._client.push(
                reference,
                auth=auth,
                manifest_bytes=data,
                content=self._store.content,
                report=report,
                sources=places,
            )
        except NotFound:
            # A registry that mounts nothing: then the blobs go through here.
            for digest, source in sources.items():
                named = Reference(source.domain, source.path).with_digest(digest)
                await self._bring(named, auth, report)
        return await self._client.push(
            reference,
            auth=auth,
            manifest_bytes=data,
            content=self._store.content,
            report=report,
        )

    async def manifest_of(self, image: Image) -> bytes:
        """A manifest of the image with every layer compressed, and the annotations that it has; the
        same one each time."""
        layers = self._store.layers_of(image.id)
        content = self._store.content
        if image.manifest is not None and content.has(image.manifest.digest):
            data = content.read_bytes(image.manifest.digest)
            blobs = manifests.decode_manifest(data).layers
            if all(
                manifests.is_compressed(blob.media_type) and content.has(blob.digest)
                for blob in blobs
            ):
                return data
        compressed = await asyncio.gather(
            *(asyncio.to_thread(self._store.layers.compressed, layer) for layer in layers)
        )
        content.write_bytes(image.raw_config)
        return self._store.manifest_over(image, compressed)

    async def _bring(self, named: Reference, auth: Auth | None, report: Report) -> None:
        own = auth if auth and auth.server_address == named.domain else None
        await self._client.pull(
            named, auth=own, platform=None, content=self._store.content, report=report
        )

    def _variant(self, image: Image, platform: Platform | None) -> Image:
        if platform is None:
            return image
        for variant in self._store.family(image):
            if provides(variant, platform):
                return variant
        raise NotFound(f"image is not available for the platform {platform}")

    async def _send(
        self, reference: Reference, data: bytes, auth: Auth | None, report: Report
    ) -> Descriptor:
        return await self._client.push(
            reference,
            auth=auth,
            manifest_bytes=data,
            content=self._store.content,
            report=report,
            sources=self._sources(data, reference.domain),
        )

    def _sources(self, data: bytes, domain: str) -> dict[str, tuple[Reference, ...]]:
        """For each layer the repositories of the same registry that are known to have it."""
        wanted = self._layers(data)
        found: dict[str, list[Reference]] = {}
        for other in self._store.list():
            places = [Reference.parse_name(name) for name in other.repo_digests]
            places = [place for place in places if place.domain == domain]
            if not places:
                continue
            for layer in self._store.layers_of(other.id):
                if layer.blob.digest in wanted:
                    found.setdefault(layer.blob.digest, []).extend(places)
        return {digest: tuple(places) for digest, places in found.items()}

    def _layers(self, data: bytes) -> set[Digest]:
        document = manifests.decode(data)
        if isinstance(document, Manifest):
            return {layer.digest for layer in document.layers}
        content = self._store.content
        here: Sequence[Descriptor] = [c for c in document.manifests if content.has(c.digest)]
        found: set[Digest] = set()
        for child in here:
            try:
                found |= self._layers(content.read_bytes(child.digest))
            except (InvalidManifest, msgspec.MsgspecError):
                continue
        return found
