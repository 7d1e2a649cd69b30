"""Manifests that arrive: checked by the spec, then recorded."""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass

import msgspec

from sampan.hub import failures
from sampan.hub.config import HubConfig
from sampan.hub.records import Actor, NewManifest, Records
from sampan.image import digest as digests
from sampan.image import manifest as manifests
from sampan.image.manifest import Descriptor, InvalidManifest, Manifest
from sampan.image.reference import InvalidReference, check_tag

MAX_MANIFEST_BYTES = 4 << 20
EMPTY_ARTIFACT_TYPES = (manifests.OCI_EMPTY,)
DESCRIPTION = "org.opencontainers.image.description"
_NOT_DISTRIBUTED = (".nondistributable.", ".foreign.")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the client is told of a manifest that was stored."""

    digest: str
    subject: str | None


class ManifestWriter:
    """Checks and stores manifests by the rules of one hub."""

    def __init__(self, records: Records, config: HubConfig) -> None:
        self._records = records
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
        new = _checked(repository, data, digest, content_type)
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


def _checked(repository: str, data: bytes, digest: str, content_type: str) -> NewManifest:
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
    if isinstance(value, Manifest):
        blobs = [d.digest for d in (value.config, *value.layers) if _is_stored(d)]
        artifact_type = artifact_type or value.config.media_type
    else:
        children = [child.digest for child in value.manifests]
    return NewManifest(
        repository=repository,
        digest=digest,
        media_type=media_type,
        content=data,
        blobs=blobs,
        children=children,
        subject=value.subject.digest if value.subject else None,
        artifact_type=artifact_type,
        annotations=value.annotations,
        description=value.annotations.get(DESCRIPTION, "")[:500],
    )


def _is_stored(descriptor: Descriptor) -> bool:
    """Layers that may not be distributed stay where their URLs say."""
    foreign = any(mark in descriptor.media_type for mark in _NOT_DISTRIBUTED)
    return not (foreign and descriptor.urls)


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
