"""Signing the attestations of an image that has been pushed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.build.attest.manifests import PREDICATE_TYPE, REFERENCE_DIGEST, REFERENCE_TYPE
from sampan.errors import InvalidParameter, NotFound
from sampan.image import manifest as media
from sampan.image.manifest import Descriptor, Index, Manifest
from sampan.image.reference import Reference
from sampan.progress import Report
from sampan.registry.auth import Auth
from sampan.registry.client import RegistryClient
from sampan.store.images import ImageStore

if TYPE_CHECKING:
    from sampan.build.attest.envelopes import PrivateKey

Statements = list[tuple[str, bytes]]
"""In-toto statements with their predicates' types."""


class Signing:
    """Makes signed attestations of those in an index, and pushes them beside it."""

    def __init__(self, store: ImageStore, client: RegistryClient) -> None:
        self._store = store
        self._client = client

    async def attach(
        self, reference: Reference, pem: bytes, report: Report, *, auth: Auth | None
    ) -> list[str]:
        """Sign what the index that ``reference`` names in its registry says of its images, and push
        it under the tags of the images' digests and of the index's.  Returns the tags.

        What is there already about other things stays.  Raises InvalidParameter for a key that
        cannot be used or an image without attestations, NotFound when they are not here; what
        pushing raises.
        """
        from sampan.build.attest import envelopes  # cryptography takes long to import

        key = envelopes.load_key(pem)
        with self._store.lease():
            descriptor, data = await self._client.resolve(reference, auth=auth)
            found = media.decode(data)
            entries = found.manifests if isinstance(found, Index) else ()
            images = {entry.digest: entry for entry in entries}
            about: dict[str, Statements] = {}
            for entry in entries:
                if entry.annotations.get(REFERENCE_TYPE) == "attestation-manifest":
                    subject = entry.annotations.get(REFERENCE_DIGEST, "")
                    if subject in images:
                        about.setdefault(subject, []).extend(self._statements(entry))
            if not about:
                raise InvalidParameter(
                    f"{reference.familiar()} has no attestations to sign: build it with --sbom or"
                    " --provenance"
                )
            # Who asks by the tag gets the index; it is a subject of each statement as well.
            whole = [
                (kind, envelopes.about_too(statement, descriptor.digest))
                for statements in about.values()
                for kind, statement in statements
            ]
            subjects = [(descriptor, whole)]
            subjects += [(images[digest], statements) for digest, statements in about.items()]
            return [
                await self._push(reference, subject, statements, key, auth, report)
                for subject, statements in subjects
            ]

    def _statements(self, entry: Descriptor) -> Statements:
        content = self._store.content
        if not content.has(entry.digest):
            raise NotFound(
                f"the attestations {entry.digest} are not here: sign where the image was built"
            )
        layers = media.decode_manifest(content.read_bytes(entry.digest)).layers
        return [
            (layer.annotations.get(PREDICATE_TYPE, ""), content.read_bytes(layer.digest))
            for layer in layers
        ]

    async def _push(
        self,
        reference: Reference,
        subject: Descriptor,
        statements: Statements,
        key: PrivateKey,
        auth: Auth | None,
        report: Report,
    ) -> str:
        from sampan.build.attest import envelopes

        tag = envelopes.attachment_tag(subject.digest)
        place = Reference(reference.domain, reference.path).with_tag(tag)
        ours = {kind for kind, _ in statements}
        kept = [
            layer
            for layer in await self._present(place, auth)
            if layer.annotations.get(envelopes.PREDICATE_TYPE) not in ours
        ]
        content = self._store.content

        def make() -> bytes:
            signed = [(kind, envelopes.envelope(text, key)) for kind, text in statements]
            return envelopes.attachment(content, subject, signed, kept)

        manifest = await asyncio.to_thread(make)
        await self._client.push(
            place, auth=auth, manifest_bytes=manifest, content=content, report=report
        )
        return tag

    async def _present(self, place: Reference, auth: Auth | None) -> tuple[Descriptor, ...]:
        """The layers of what is under the tag."""
        try:
            _, data = await self._client.resolve(place, auth=auth)
        except NotFound:
            return ()
        found = media.decode(data)
        return found.layers if isinstance(found, Manifest) else ()
