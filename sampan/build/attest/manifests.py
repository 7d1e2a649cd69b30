"""Attestation manifests, and the index that has them beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sampan.image import manifest as media
from sampan.image.digest import sha256
from sampan.image.manifest import Descriptor, Index, Manifest, Platform
from sampan.store.content import ContentStore

STATEMENT = "https://in-toto.io/Statement/v0.1"
IN_TOTO = "application/vnd.in-toto+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
ARTIFACT = "application/vnd.docker.attestation.manifest.v1+json"
UNKNOWN = Platform(os="unknown", architecture="unknown")


@dataclass(frozen=True, slots=True)
class Predicate:
    type: str
    document: dict[str, Any]


def attestation(
    content: ContentStore,
    subjects: Sequence[str],
    about: Descriptor,
    predicates: list[Predicate],
    *,
    artifact: bool = False,
) -> Descriptor:
    """Write the statements on the manifest ``about`` and their manifest; returns its descriptor
    for the index.  ``subjects`` are the image's names as package URLs.

    As an ``artifact`` (OCI image specification 1.1) the manifest names its subject, so that
    registries list it among the referrers of the image."""
    algorithm, _, value = about.digest.partition(":")
    layers = []
    for predicate in predicates:
        statement = {
            "_type": STATEMENT,
            "predicateType": predicate.type,
            "subject": [{"name": name, "digest": {algorithm: value}} for name in subjects],
            "predicate": predicate.document,
        }
        data = msgspec.json.encode(statement)
        layers.append(
            Descriptor(
                IN_TOTO,
                content.write_bytes(data),
                len(data),
                annotations={PREDICATE_TYPE: predicate.type},
            )
        )
    if artifact:
        config, kind = b"{}", media.OCI_EMPTY
    else:
        kind = media.OCI_CONFIG
        config = msgspec.json.encode(
            {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            }
        )
    manifest = media.encode(
        Manifest(
            schema_version=2,
            config=Descriptor(kind, content.write_bytes(config), len(config)),
            layers=tuple(layers),
            artifact_type=ARTIFACT if artifact else "",
            subject=Descriptor(about.media_type, about.digest, about.size) if artifact else None,
        )
    )
    content.write_bytes(manifest)
    return Descriptor(
        media.OCI_MANIFEST,
        sha256(manifest),
        len(manifest),
        platform=UNKNOWN,
        annotations={
            REFERENCE_DIGEST: about.digest,
            REFERENCE_TYPE: "attestation-manifest",
        },
        artifact_type=ARTIFACT if artifact else "",
    )


def index_of(entries: Sequence[Descriptor], annotations: dict[str, str]) -> bytes:
    """The index's bytes."""
    return media.encode(Index(schema_version=2, manifests=tuple(entries), annotations=annotations))
