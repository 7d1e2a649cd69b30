"""The registry client: one object for pull, push and the questions asked of a registry.

Example::

    async with RegistryClient(RegistryConfig()) as client:
        ref = Reference.parse("127.0.0.1:5000/app:1")
        pulled = await client.pull(ref, auth=None, platform=None, content=content, report=ignore)
        image = images.register(pulled.config_bytes, ...)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from sampan.image.manifest import Descriptor, Platform
from sampan.image.reference import Reference
from sampan.progress import Report
from sampan.registry.auth import Auth
from sampan.registry.config import RegistryConfig

if TYPE_CHECKING:
    from sampan.store.content import ContentStore


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought: everything named here is in the content store.

    ``descriptor`` is what the reference named (an index or a manifest: its digest is the one to
    show and to keep as repo digest); ``manifest`` the image chosen for the platform.
    """

    reference: Reference
    descriptor: Descriptor
    manifest: Descriptor
    manifest_bytes: bytes
    config: Descriptor
    config_bytes: bytes
    layers: tuple[Descriptor, ...]
    index_bytes: bytes | None = None


@dataclass(frozen=True, slots=True)
class LayerReady:
    """A layer's blob is in the content store; lower layers of the same image are too."""

    index: int
    blob: Descriptor
    config_bytes: bytes


OnLayer: TypeAlias = Callable[[LayerReady], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SearchHit:
    name: str
    description: str
    stars: int
    official: bool
    automated: bool


class RegistryClient:
    """Pulls, pushes and asks.  Safe for concurrent calls; close it when done."""

    def __init__(self, config: RegistryConfig) -> None: ...

    async def __aenter__(self) -> RegistryClient: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def close(self) -> None: ...

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

        Reports Docker's statuses up to "Download complete"; "Extracting" and "Pull complete" are
        the unpacker's.  ``on_layer`` is awaited for each layer in manifest order as soon as it and
        the layers below it are there, while others are still downloading.

        Raises NotFound, Unauthorized, Unavailable, InvalidParameter (no such platform), DiskFull.
        """
        raise NotImplementedError

    async def push(
        self,
        ref: Reference,
        *,
        auth: Auth | None,
        manifest_bytes: bytes,
        content: ContentStore,
        report: Report,
        sources: Mapping[str, tuple[Reference, ...]] | None = None,
    ) -> Descriptor:
        """Upload the manifest (or index, with all its manifests) and what it names to ``ref``.

        ``sources`` tells for a blob's digest in which repositories it is known to be; those of the
        same registry are mounted from instead of uploaded.  Returns the manifest's descriptor.
        """
        raise NotImplementedError

    async def resolve(self, ref: Reference, *, auth: Auth | None) -> tuple[Descriptor, bytes]:
        """The descriptor and bytes of the manifest or index that ``ref`` names."""
        raise NotImplementedError

    async def platforms(self, ref: Reference, *, auth: Auth | None) -> tuple[Platform, ...]:
        """The platforms that ``ref`` has an image for."""
        raise NotImplementedError

    async def tags(self, ref: Reference, *, auth: Auth | None) -> list[str]:
        """All tags of the repository, through all pages."""
        raise NotImplementedError

    async def catalog(self, domain: str, *, auth: Auth | None) -> list[str]:
        """All repositories of a registry, through all pages."""
        raise NotImplementedError

    async def search(
        self, term: str, *, domain: str = "docker.io", auth: Auth | None, limit: int = 25
    ) -> list[SearchHit]:
        """Ask the registry's ``/v1/search``."""
        raise NotImplementedError

    async def check_auth(self, domain: str, auth: Auth) -> str:
        """Log in: returns an identity token or "".  Raises Unauthorized when refused."""
        raise NotImplementedError
