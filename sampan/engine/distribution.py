"""Images from and to registries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import msgspec

from sampan.build.graph.scope import host_platform
from sampan.engine.events import Events
from sampan.engine.images import event_attributes
from sampan.engine.publishing import Publisher
from sampan.engine.signing import Signing
from sampan.errors import InvalidParameter, NotFound, Unsupported
from sampan.image import config as image_config
from sampan.image import manifest as manifests
from sampan.image.digest import Digest
from sampan.image.manifest import Descriptor, Index, Platform
from sampan.image.reference import DEFAULT_DOMAIN, Reference
from sampan.progress import Progress, Report
from sampan.registry import platforms
from sampan.registry.auth import Auth
from sampan.registry.client import LayerComing, Pulled, RegistryClient, SearchHit
from sampan.store.content import DamagedBlob
from sampan.store.images import Image, ImageStore, LayerRef, Member
from sampan.store.indexes import MAX_DEPTH, images_of

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
        self._publisher = Publisher(store, client)
        self.signing = Signing(store, client)

    async def pull(
        self,
        reference: Reference,
        report: Report,
        *,
        platform: Platform | None = None,
        auth: Auth | None = None,
        whole: bool = False,
    ) -> Image:
        """Bring the image that ``reference`` names; it is visible only when it can be run.

        An index is kept beside the image that was chosen from it; ``whole`` brings all its other
        images too, and what else it names.  Raises NotFound, Unauthorized, Unavailable, InvalidParameter, DiskFull.
        """
        try:
            return await self._pull(reference, report, platform, auth, whole)
        except DamagedBlob as error:
            # It was here already, and is removed now: fetched anew it is sound.
            report(Progress(f"{str(error).rpartition(':')[0]}; pulling it again"))
            return await self._pull(reference, report, platform, auth, whole)

    async def _pull(
        self,
        reference: Reference,
        report: Report,
        platform: Platform | None,
        auth: Auth | None,
        whole: bool,
    ) -> Image:
        store = self._store
        before = self._known(reference)

        async def unpack(coming: LayerComing) -> None:
            # Each layer is unpacked while it and those above are still on their way.
            inside = diff_ids(coming.config_bytes)
            if coming.index < len(inside):  # else layer_refs() says what is wrong
                done.append(LayerRef(inside[coming.index], coming.blob))
                await store.apply_arriving(done, coming.arrival, report)

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
            tags = [reference] if reference.tag and not reference.digest else []
            named = Reference(reference.domain, reference.path)
            digest = named.with_digest(pulled.descriptor.digest)
            if tags and pulled.index_bytes is not None:
                await store.apply(layer_refs(pulled), report)
                members = [_member(pulled)]
                if whole:
                    members += await self._others(pulled, auth, report)
                await store.admit_index(pulled.index_bytes, members, reference, preferred, [digest])
                image = store.get(pulled.config.digest)
            else:
                image = await store.admit(
                    pulled.config_bytes,
                    layer_refs(pulled),
                    pulled.manifest_bytes,
                    [*tags, digest],
                    None,
                    report,
                )
        shown = reference.familiar()
        report(Progress(f"Digest: {pulled.descriptor.digest}"))
        if image.id in before and not whole:
            report(Progress(f"Status: Image is up to date for {shown}"))
        else:
            report(Progress(f"Status: Downloaded newer image for {shown}"))
        attributes = event_attributes(image, reference.familiar_name)
        self._events.publish("image", "pull", shown, attributes)
        return image

    async def _others(self, pulled: Pulled, auth: Auth | None, report: Report) -> list[Member]:
        """Bring everything that the index names besides the image that was chosen from it."""
        index = manifests.decode(pulled.index_bytes or b"")
        assert isinstance(index, Index)
        content = self._store.content
        named = Reference(pulled.reference.domain, pulled.reference.path)
        members = []
        waiting = [(entry, 1) for entry in index.manifests]
        while waiting:
            entry, depth = waiting.pop(0)
            if entry.digest == pulled.manifest.digest:
                continue
            place = named.with_digest(entry.digest)
            if entry.media_type in manifests.INDEX_TYPES:
                if depth >= MAX_DEPTH:
                    raise InvalidParameter(f"{place.familiar()}: indexes nest too deep")
                _, data = await self._client.resolve(place, auth=auth)
                content.write_bytes(data)
                inner = manifests.decode(data)
                assert isinstance(inner, Index)
                waiting += [(child, depth + 1) for child in inner.manifests]
                continue
            other = await self._client.pull(
                place, auth=auth, platform=None, content=content, report=report
            )
            if entry in images_of(index) and other.config.media_type in manifests.CONFIG_TYPES:
                members.append(_member(other))
        return members

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
        whole: bool = False,
    ) -> None:
        """Bring the images of all tags of a repository."""
        for tag in await self._client.tags(repository, auth=auth):
            await self.pull(
                repository.with_tag(tag), report, platform=platform, auth=auth, whole=whole
            )

    async def push(
        self,
        repository: Reference,
        report: Report,
        *,
        auth: Auth | None = None,
        platform: Platform | None = None,
    ) -> None:
        """Upload what a tag stands for (an image, or an index with all its images), or all tags
        that ``repository`` has here when it has none; with ``platform`` that image alone.

        Raises NotFound, Unauthorized, Unavailable, InvalidParameter.
        """
        if repository.digest:
            raise InvalidParameter("cannot push a digest reference")
        tagged = self._tagged(repository)
        if not tagged:
            shown = Reference(repository.domain, repository.path).familiar()
            raise NotFound(f"An image does not exist locally with the tag: {shown}")
        for reference, image in tagged:
            with self._store.lease():
                pushed = await self._publisher.push(reference, image, platform, auth, report)
                self._store.discard_pushed(image.id)
                digest = Reference(reference.domain, reference.path).with_digest(pushed.digest)
                self._store.add_repo_digest(image.id, digest)
            attributes = event_attributes(image, reference.familiar_name)
            self._events.publish("image", "push", reference.familiar(), attributes)

    async def document(
        self, reference: Reference, auth: Auth | None, insecure: bool = False
    ) -> tuple[Descriptor, bytes]:
        """The manifest or index that the registry has under the name, as it is."""
        async with self._client.view(reference.domain if insecure else "") as client:
            return await client.resolve(reference, auth=auth)

    async def push_index(
        self,
        reference: Reference,
        data: bytes,
        sources: Mapping[Digest, Reference],
        report: Report,
        *,
        auth: Auth | None = None,
        insecure: bool = False,
    ) -> Descriptor:
        """Upload an index made by hand.  Raises as :meth:`push`."""
        async with self._client.view(reference.domain if insecure else "") as client:
            with self._store.lease():
                publisher = Publisher(self._store, client)
                return await publisher.push_index(reference, data, sources, auth, report)

    async def referrers(
        self, reference: Reference, artifact_type: str, auth: Auth | None
    ) -> tuple[Descriptor, bytes]:
        """What the registry has about the manifest that ``reference`` names: signatures, bills of
        materials; as an index."""
        return await self._client.referrers(reference, artifact_type, auth=auth)

    async def inspect(
        self, reference: Reference, auth: Auth | None, insecure: bool = False
    ) -> tuple[Descriptor, Sequence[Platform]]:
        """What the registry has under the name: its descriptor and platforms."""
        async with self._client.view(reference.domain if insecure else "") as client:
            descriptor, _ = await client.resolve(reference, auth=auth)
            return descriptor, await client.platforms(reference, auth=auth)

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
        if domain == "index.docker.io":
            domain = DEFAULT_DOMAIN
        return await self._client.check_auth(domain, auth)

    def _known(self, reference: Reference) -> set[Digest]:
        """The images that are here under the name."""
        try:
            return {image.id for image in self._store.family(self._store.get(reference))}
        except NotFound:
            return set()

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


def preferred(images: Sequence[Image]) -> Image:
    """Of the variants of a tag the one for this machine, else the one that came last."""
    entries = []
    for image in images:
        config = image.config
        platform = Platform(config.architecture, config.os or "linux", config.variant)
        entries.append(Descriptor("", image.id, 0, platform=platform))
    chosen = platforms.choose(entries, platforms.host_platform())
    return next((i for i in images if chosen and i.id == chosen.digest), images[-1])


def _member(pulled: Pulled) -> Member:
    return Member(pulled.config_bytes, layer_refs(pulled), pulled.manifest_bytes)


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
