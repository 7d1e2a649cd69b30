"""Manifests that arrive: checked by the spec, then recorded."""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import msgspec

from sampan.hub import failures
from sampan.hub.config import HubConfig
from sampan.hub.records import Actor, NewManifest, Records
from sampan.hub.storage import BlobStorage
from sampan.image import digest as digests
from sampan.image import manifest as manifests
from sampan.image.manifest import CONFIG_TYPES, Descriptor, InvalidManifest, Manifest
from sampan.image.reference import InvalidReference, check_tag

MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 1 << 20
MAX_DESCRIPTION = 500
DESCRIPTION = "org.opencontainers.image.description"
_NOT_DISTRIBUTED = (".nondistributable.", ".foreign.")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the client is told of a manifest that was stored."""

    digest: str
    subject: str | None


class ManifestWriter:
    """Checks and stores manifests by the rules of one hub."""

    def __init__(self, records: Records, storage: BlobStorage, config: HubConfig) -> None:
        self._records = records
        self._storage = storage
        self._config = config

    async def put(
        self,
        repository: str,
        reference: str,
        data: bytes,
        content_type: str,
        *,
        complete: bool = True,
        actor: Actor | None = None,
    ) -> Accepted:
        """Store ``data`` under its digest, and under ``reference`` if that is a tag.

        What it names must be there already, unless it is not ``complete``.  Raises RegistryError.
        """
        tag, digest = _name(reference, data)
        new, config = _checked(repository, data, digest, content_type)
        if config and not new.description:
            new = replace(new, description=await self._label(config))
        await self._records.store_manifest(
            new,
            tag,
            immutable=tag is not None
            and any(fnmatch.fnmatchcase(tag, glob) for glob in self._config.immutable_tags),
            quota=self._config.quota_bytes,
            complete=complete,
            actor=actor,
        )
        return Accepted(digest, new.subject)

    async def _label(self, config: Descriptor) -> str:
        """The description in an image's labels, if its configuration is here and says one."""
        if config.media_type not in CONFIG_TYPES or config.size > MAX_CONFIG_BYTES:
            return ""
        data = bytearray()
        try:
            async for chunk in self._storage.read(config.digest, 0, config.size):
                data += chunk
            labels = msgspec.json.decode(data, type=_Config).config.labels or {}
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return ""
        return labels.get(DESCRIPTION, "")[:MAX_DESCRIPTION]


class _RunConfig(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Config(msgspec.Struct):
    config: _RunConfig = msgspec.field(default_factory=_RunConfig)


def _name(reference: str, data: bytes) -> tuple[str | None, str]:
    """The tag, if ``reference`` is one, and the digest of ``data``."""
    if ":" not in reference:
        try:
            return check_tag(reference), digests.sha256(data)
        except InvalidReference:
            raise failures.manifest_invalid("invalid tag name") from None
    if not digests.is_digest(reference):
        raise failures.digest_invalid("invalid digest")
    algorithm, _, encoded = reference.partition(":")
    if hashlib.new(algorithm, data).hexdigest() != encoded:
        raise failures.digest_invalid("provided digest did not match uploaded content")
    return None, reference


def _checked(
    repository: str, data: bytes, digest: str, content_type: str
) -> tuple[NewManifest, Descriptor | None]:
    """The manifest by the spec's rules, and its configuration.  Raises RegistryError."""
    try:
        media_type = manifests.media_type_of(data)
        value = manifests.decode(data)
    except InvalidManifest as exc:
        raise failures.manifest_invalid(str(exc)) from None
    claimed = content_type.partition(";")[0].strip()
    if claimed and claimed != media_type:
        raise failures.manifest_invalid(
            f"the Content-Type {claimed} is not the manifest's media type {media_type}"
        )
    blobs: list[str] = []
    children: list[str] = []
    artifact_type = value.artifact_type
    config = None
    if isinstance(value, Manifest):
        _check_urls(value)
        blobs = [d.digest for d in (value.config, *value.layers) if is_stored(d)]
        config = value.config
        artifact_type = artifact_type or config.media_type
    else:
        children = [child.digest for child in value.manifests]
    new = NewManifest(
        repository=repository,
        digest=digest,
        media_type=media_type,
        content=data,
        blobs=blobs,
        children=children,
        subject=value.subject.digest if value.subject else None,
        artifact_type=artifact_type,
        annotations=value.annotations,
        description=value.annotations.get(DESCRIPTION, "")[:MAX_DESCRIPTION],
    )
    return new, config


def is_stored(descriptor: Descriptor) -> bool:
    """Layers that may not be distributed stay where their URLs say."""
    return not (_is_foreign(descriptor) and descriptor.urls)


def _is_foreign(descriptor: Descriptor) -> bool:
    return any(mark in descriptor.media_type for mark in _NOT_DISTRIBUTED)


def _check_urls(manifest: Manifest) -> None:
    """A client fetches a foreign layer from where it is said to be: http or https only, and a
    host.  Raises RegistryError."""
    for layer in filter(_is_foreign, manifest.layers):
        for url in layer.urls:
            try:
                parts = urlsplit(url)
                good = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment
            except ValueError:
                good = False
            if not good:
                raise failures.manifest_invalid(
                    f"the layer {layer.digest} is to be fetched from an invalid URL"
                )


class _Referrers(msgspec.Struct, rename="camel"):
    schema_version: int
    media_type: str
    manifests: list[Descriptor]


async def referrers(
    records: Records, repository: str, digest: str, artifact_type: str | None
) -> bytes:
    """The index of manifests whose subject is ``digest`` (spec, Listing Referrers)."""
    found = await records.referrers(repository, digest)
    descriptors = [
        Descriptor(
            media_type=r.media_type,
            digest=r.digest,
            size=r.size,
            annotations=r.annotations,
            artifact_type=r.artifact_type,
        )
        for r in found
        if artifact_type is None or r.artifact_type == artifact_type
    ]
    return msgspec.json.encode(_Referrers(2, manifests.OCI_INDEX, descriptors))
