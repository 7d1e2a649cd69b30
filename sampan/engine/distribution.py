"""Images from and to registries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import msgspec

from sampan.build.graph.scope import host_platform
from sampan.engine.events import Events
from sampan.engine.images import event_attributes, provides
from sampan.errors import InvalidParameter, NotFound, Unsupported
from sampan.image import config as image_config
from sampan.image import manifest as manifests
from sampan.image.digest import Digest
from sampan.image.manifest import OCI_CONFIG, Descriptor, Manifest, Platform
from sampan.image.reference import DEFAULT_DOMAIN, Reference
from sampan.progress import Progress, Report
from sampan.registry.auth import Auth
from sampan.registry.client import LayerReady, Pulled, RegistryClient, SearchHit
from sampan.store.images import Image, ImageStore, LayerRef

Auths = Mapping[str, Auth]
"""Credentials by registry (a reference's domain)."""

_credentials: ContextVar[Auths] = ContextVar("credentials", default=MappingProxyType({}))


@contextmanager
def credentials_for(auths: Auths) -> Iterator[None]:
    """Pulls that a build in the block begins use these credentials.

    They travel beside the builder, which knows nothing of registries' users.
    """
    token = _credentials.set(auths)
    try:
        yield
    finally:
        _credentials.reset(token)


class Distribution:
    """Pulls, pushes, searches and logs in."""

    def __init__(self, store: ImageStore, client: RegistryClient, events: Events) -> None:
        self._store = store
        self._client = client
        self._events = events

    async def pull(
        self,
        reference: Reference,
        report: Report,
        *,
        platform: Platform | None = None,
        auth: Auth | None = None,
    ) -> Image:
        """Bring the image that ``reference`` names; it is visible only when it can be run.

        Raises NotFound, Unauthorized, Unavailable, InvalidParameter, DiskFull.
        """
        store = self._store
        before = self._find(reference)

        async def unpack(ready: LayerReady) -> None:
            # The layers below are unpacked while those above are still on their way.
            inside = diff_ids(ready.config_bytes)
            if ready.index < len(inside):  # else layer_refs() says what is wrong
                done.append(LayerRef(inside[ready.index], ready.blob))
                await store.apply(done, report)

        async with store.attempt():
            done: list[LayerRef] = []
            pulled = await self._client.pull(
                reference,
                auth=auth,
                platform=platform,
                content=store.content,
                report=report,
                on_layer=unpack,
            )
            names = [reference] if reference.tag and not reference.digest else []
            named = Reference(reference.domain, reference.path)
            names.append(named.with_digest(pulled.descriptor.digest))
            image = await store.admit(
                pulled.config_bytes, layer_refs(pulled), pulled.manifest_bytes, names, None, report
            )
        shown = reference.familiar()
        report(Progress(f"Digest: {pulled.descriptor.digest}"))
        if before == image.id:
            report(Progress(f"Status: Image is up to date for {shown}"))
        else:
            report(Progress(f"Status: Downloaded newer image for {shown}"))
        self._events.publish("image", "pull", shown, event_attributes(image, shown))
        return image

    async def pull_for_build(
        self, reference: Reference, platform: Platform | None, report: Report
    ) -> Image:
        """Bring a base image, with the credentials of the build that wants it."""
        auth = _credentials.get().get(reference.domain)
        return await self.pull(reference, report, platform=platform, auth=auth)

    async def pull_all_tags(
        self,
        repository: Reference,
        report: Report,
        *,
        platform: Platform | None = None,
        auth: Auth | None = None,
    ) -> None:
        """Bring the images of all tags of a repository."""
        for tag in await self._client.tags(repository, auth=auth):
            await self.pull(repository.with_tag(tag), report, platform=platform, auth=auth)

    async def push(
        self,
        repository: Reference,
        report: Report,
        *,
        auth: Auth | None = None,
        platform: Platform | None = None,
    ) -> None:
        """Upload the image of a tag, or of all tags that ``repository`` has here when it has none.

        Raises NotFound, Unauthorized, Unavailable, InvalidParameter.
        """
        if repository.digest:
            raise InvalidParameter("cannot push a digest reference")
        tagged = self._tagged(repository)
        if not tagged:
            what = "tag" if repository.tag else "repository"
            shown = repository.familiar()
            raise NotFound(f"An image does not exist locally with the {what}: {shown}")
        for reference, image in tagged:
            if platform is not None:
                self._check_platform(image, platform)
            with self._store.lease():
                data = await self._pushable(image)
                pushed = await self._client.push(
                    reference,
                    auth=auth,
                    manifest_bytes=data,
                    content=self._store.content,
                    report=report,
                    sources=self._sources(image, reference.domain),
                )
                digest = Reference(reference.domain, reference.path).with_digest(pushed.digest)
                self._store.add_repo_digest(image.id, digest)
            shown = reference.familiar()
            self._events.publish("image", "push", shown, event_attributes(image, shown))

    async def inspect(
        self, reference: Reference, auth: Auth | None
    ) -> tuple[Descriptor, Sequence[Platform]]:
        """What the registry has under the name: its descriptor and platforms."""
        descriptor, _ = await self._client.resolve(reference, auth=auth)
        return descriptor, await self._client.platforms(reference, auth=auth)

    async def search(
        self, term: str, *, limit: int = 25, auth: Auth | None = None
    ) -> Sequence[SearchHit]:
        """Ask a registry: the default one, or the one that ``term`` begins with (``host/term``)."""
        head, slash, rest = term.partition("/")
        domain = head if slash and ("." in head or ":" in head or head == "localhost") else ""
        return await self._client.search(
            rest if domain else term, domain=domain or DEFAULT_DOMAIN, auth=auth, limit=limit
        )

    async def log_in(self, auth: Auth) -> str:
        """Try credentials; returns an identity token or "".  Raises Unauthorized."""
        address = auth.server_address or DEFAULT_DOMAIN
        domain = address.split("://", 1)[-1].split("/", 1)[0]
        if domain in ("index.docker.io", "registry-1.docker.io"):
            domain = DEFAULT_DOMAIN
        return await self._client.check_auth(domain, auth)

    def _find(self, reference: Reference) -> str:
        try:
            return self._store.get(reference).id
        except NotFound:
            return ""

    def _tagged(self, repository: Reference) -> list[tuple[Reference, Image]]:
        if repository.tag:
            try:
                return [(repository, self._store.get(repository))]
            except NotFound:
                return []
        return [
            (reference, image)
            for image in self._store.list()
            for reference in map(Reference.parse_name, image.repo_tags)
            if reference.name == repository.name
        ]

    def _check_platform(self, image: Image, platform: Platform) -> None:
        if not provides(image, platform):
            raise NotFound(f"image is not available for the platform {platform}")

    async def _pushable(self, image: Image) -> bytes:
        """A manifest of the image with every layer compressed; the same one each time."""
        layers = self._store.layers_of(image.id)
        if image.manifest is not None and all(
            manifests.is_compressed(layer.blob.media_type) for layer in layers
        ):
            return self._store.content.read_bytes(image.manifest.digest)
        compressed = await asyncio.gather(
            *(asyncio.to_thread(self._store.layers.compressed, layer) for layer in layers)
        )
        self._store.content.write_bytes(image.raw_config)
        config = Descriptor(OCI_CONFIG, image.id, len(image.raw_config))
        manifest = Manifest(schema_version=2, config=config, layers=tuple(compressed))
        return manifests.encode(manifest)

    def _sources(self, image: Image, domain: str) -> dict[str, tuple[Reference, ...]]:
        """For each layer the repositories of the same registry that are known to have it."""
        wanted = {layer.diff_id: layer.blob.digest for layer in self._store.layers_of(image.id)}
        found: dict[str, list[Reference]] = {digest: [] for digest in wanted.values()}
        for other in self._store.list():
            places = [Reference.parse_name(name) for name in other.repo_digests]
            places = [place for place in places if place.domain == domain]
            if not places:
                continue
            for layer in self._store.layers_of(other.id):
                if layer.diff_id in wanted:
                    found.setdefault(layer.blob.digest, []).extend(places)
        return {digest: tuple(places) for digest, places in found.items() if places}


def layer_refs(pulled: Pulled) -> list[LayerRef]:
    """The pulled blobs with the digests of what is in them.

    Raises InvalidParameter when the manifest and the configuration do not agree.
    """
    inside = diff_ids(pulled.config_bytes)
    if len(inside) != len(pulled.layers):
        raise InvalidParameter(
            f"{pulled.reference.familiar()}: the manifest has {len(pulled.layers)} layers, the "
            f"configuration {len(inside)}"
        )
    return [LayerRef(*pair) for pair in zip(inside, pulled.layers, strict=True)]


def diff_ids(config: bytes) -> list[Digest]:
    """Digests of the uncompressed layers.  Raises InvalidParameter for what is no configuration."""
    try:
        return image_config.decode(config).rootfs.diff_ids
    except image_config.InvalidConfig as error:
        raise InvalidParameter(f"the image cannot be used: {error}") from None


def check_platform(platform: Platform | None) -> Platform | None:
    """``platform`` completed with this machine's parts.  Raises Unsupported for other systems."""
    if platform is None:
        return None
    ours = host_platform()
    if platform.os not in ("", "linux"):
        raise Unsupported(f'operating system "{platform.os}" is not supported: only linux is')
    return msgspec.structs.replace(
        platform, os="linux", architecture=platform.architecture or ours.architecture
    )
