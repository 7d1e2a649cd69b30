"""What is attached to an image: signatures, bills of materials, provenance, anything else.

Three customs say what belongs to an image, and all are followed: manifests whose *subject* it is
(OCI referrers), attestation manifests beside it in its index (as image builders write them), and
tags called by its digest (``sha256-<hex>.sig``, ``.att``, ``.sbom``; cosign).
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sampan.errors import InvalidParameter, NotFound
from sampan.hub import sbom, signatures
from sampan.hub.inspection import TagView
from sampan.hub.records import Records
from sampan.hub.signatures import Checked, Key
from sampan.hub.storage import BlobStorage
from sampan.image import manifest as manifests
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest

MAX_DOCUMENT_BYTES = 32 << 20
MAX_ATTACHED = 50
REMEMBERED = 1000
_REFERENCE = "vnd.docker.reference.digest"
_ATTESTATION = "vnd.docker.reference.type"
_COSIGN_SUFFIXES = (".sig", ".att", ".sbom")
_COSIGN_TAG_RE = re.compile(r"sha256-[0-9a-f]{64}\.(?:sig|att|sbom)")
_KINDS = ("sbom", "provenance", "statement")
_STATEMENT = "application/vnd.in-toto+json"
_BILLS = {
    "application/spdx+json": "SPDX",
    "text/spdx+json": "SPDX",
    "application/vnd.cyclonedx+json": "CycloneDX",
}


def is_attachment(tag: str) -> bool:
    """Whether a tag is one that names an image's attachment by the image's digest."""
    return _COSIGN_TAG_RE.fullmatch(tag) is not None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature of the image ``about``, in the manifest ``manifest``."""

    about: str
    manifest: str
    checked: Checked


@dataclass(frozen=True, slots=True)
class Document:
    """A document about the image ``about``: the blob ``digest``.

    ``kind`` is ``sbom``, ``provenance`` or ``statement``; ``count`` of a bill's packages or a
    provenance's materials; ``checked`` the signature around it, if there is one.
    """

    about: str
    digest: str
    size: int
    kind: str
    format: str
    count: int
    problem: str
    checked: Checked | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something else that is attached."""

    digest: str
    type: str
    size: int


@dataclass(frozen=True, slots=True)
class Attached:
    signatures: list[Signature]
    documents: list[Document]
    artifacts: list[Artifact]


@dataclass(frozen=True, slots=True)
class _Found:
    """A manifest that is attached to the image ``about``."""

    about: str
    digest: str
    manifest: Manifest
    size: int


class Attachments:
    """Finds and reads attachments.  Reading rights are checked by the caller."""

    def __init__(self, records: Records, storage: BlobStorage, keys: Sequence[Key]) -> None:
        self._records = records
        self._storage = storage
        self._keys = keys
        self._summaries: OrderedDict[str, tuple[str, str, int, str]] = OrderedDict()

    async def of(self, repository: str, view: TagView) -> Attached:
        """All that is attached to what a tag names."""
        attached = Attached([], [], [])
        seen: set[str] = set()
        async for found in self._find(repository, view):
            if found.digest in seen:
                continue
            seen.add(found.digest)
            if len(seen) > MAX_ATTACHED:
                break
            await self._sort(repository, found, attached)
        attached.signatures.sort(key=lambda s: s.checked.verdict != "verified")
        attached.documents.sort(key=lambda d: _KINDS.index(d.kind))
        return attached

    async def document(
        self, repository: str, digest: str
    ) -> sbom.Bill | sbom.Provenance | sbom.Other:
        """Read a document.  Raises NotFound, InvalidParameter."""
        data = await self._blob(repository, digest, MAX_DOCUMENT_BYTES)
        return await asyncio.to_thread(_read_any, data)

    async def _find(self, repository: str, view: TagView) -> AsyncIterator[_Found]:
        subjects = list(dict.fromkeys([view.digest, *(image.digest for image in view.images)]))
        for subject in subjects:
            for referrer in await self._records.referrers(repository, subject):
                if found := await self._manifest(repository, referrer.digest, subject):
                    yield found
        for child in await self._children(repository, view.digest):
            if child.annotations.get(_ATTESTATION) != "attestation-manifest":
                continue
            about = child.annotations.get(_REFERENCE, "")
            if found := await self._manifest(repository, child.digest, about):
                yield found
        for subject in subjects:
            for suffix in _COSIGN_SUFFIXES:
                tag = subject.replace(":", "-") + suffix
                if found := await self._manifest(repository, tag, subject):
                    yield found

    async def _children(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        stored = await self._records.manifest(repository, digest)
        if stored is None:
            return ()
        value = manifests.decode(stored.content)
        return value.manifests if isinstance(value, Index) else ()

    async def _manifest(self, repository: str, reference: str, about: str) -> _Found | None:
        stored = await self._records.manifest(repository, reference)
        if stored is None:
            return None
        try:
            value = manifests.decode(stored.content)
        except InvalidManifest:
            return None
        if not isinstance(value, Manifest):
            return None
        size = sum(layer.size for layer in value.layers)
        return _Found(about, stored.digest, value, size)

    async def _sort(self, repository: str, found: _Found, into: Attached) -> None:
        """Put what a manifest holds where it belongs."""
        known = False
        for layer in found.manifest.layers:
            if signatures.is_signature(layer.media_type):
                known = True
                await self._add_signature(repository, found, layer, into)
            elif layer.media_type == _STATEMENT or layer.media_type in _BILLS:
                known = True
                into.documents.append(await self._document(repository, found, layer, None))
        if not known:
            kind = found.manifest.artifact_type or found.manifest.config.media_type
            if kind == signatures.NOTARY:
                checked = Checked("notary", "unreadable")
                into.signatures.append(Signature(found.about, found.digest, checked))
            else:
                into.artifacts.append(Artifact(found.digest, kind, found.size))

    async def _add_signature(
        self, repository: str, found: _Found, layer: Descriptor, into: Attached
    ) -> None:
        try:
            data = await self._blob(repository, layer.digest, MAX_DOCUMENT_BYTES)
        except (NotFound, InvalidParameter) as exc:
            checked = Checked(layer.media_type, "unreadable", reason=str(exc))
            into.signatures.append(Signature(found.about, found.digest, checked))
            return
        checked = await asyncio.to_thread(
            signatures.check, layer.media_type, data, layer.annotations, found.about, self._keys
        )
        if signatures.signed_statement(layer.media_type, data) is None:
            into.signatures.append(Signature(found.about, found.digest, checked))
        else:
            into.documents.append(await self._document(repository, found, layer, checked))

    async def _document(
        self, repository: str, found: _Found, layer: Descriptor, checked: Checked | None
    ) -> Document:
        known = self._summaries.get(layer.digest)
        if known is None:
            try:
                known = _summary(await self.document(repository, layer.digest))
            except NotFound as exc:
                known = ("statement", layer.media_type, 0, str(exc))
            except InvalidParameter as exc:
                known = ("statement", _BILLS.get(layer.media_type, ""), 0, str(exc))
                self._remember(layer.digest, known)
            else:
                self._remember(layer.digest, known)
        kind, name, count, problem = known
        return Document(found.about, layer.digest, layer.size, kind, name, count, problem, checked)

    def _remember(self, digest: str, summary: tuple[str, str, int, str]) -> None:
        self._summaries[digest] = summary
        if len(self._summaries) > REMEMBERED:
            self._summaries.popitem(last=False)

    async def _blob(self, repository: str, digest: str, limit: int) -> bytes:
        size = await self._records.blob_size(repository, digest)
        if size is None:
            raise NotFound(f"there is no document {digest} in {repository}")
        if size > limit:
            raise InvalidParameter(f"the document is too large to be shown: {size} bytes")
        data = bytearray()
        try:
            async for chunk in self._storage.read(digest, 0, size):
                data += chunk
        except FileNotFoundError:
            raise NotFound(f"there is no document {digest} in {repository}") from None
        return bytes(data)


def _read_any(data: bytes) -> sbom.Bill | sbom.Provenance | sbom.Other:
    """A document, also one in a signed envelope.  Raises InvalidParameter."""
    for kind in (signatures.DSSE, signatures.BUNDLE):
        if inner := signatures.signed_statement(kind, data):
            return sbom.read_document(inner)
    return sbom.read_document(data)


def _summary(read: sbom.Bill | sbom.Provenance | sbom.Other) -> tuple[str, str, int, str]:
    if isinstance(read, sbom.Bill):
        return "sbom", read.format, len(read.packages), ""
    if isinstance(read, sbom.Provenance):
        return "provenance", read.format, len(read.materials), ""
    return "statement", read.format, 0, ""
