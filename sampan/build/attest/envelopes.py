"""Signed attestations: DSSE envelopes around in-toto statements, in a manifest under a tag of the
subject's digest, where cosign and its like look for them.

*envelope*
    DSSE's: the statement and signatures of its *pre-authentication encoding*.
*attachment*
    The manifest ``sha256-<hex>.att`` with an envelope a layer.  It also names its subject (OCI 1.1),
    so that registries list it among the subject's referrers.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from sampan.build.attest.manifests import IN_TOTO
from sampan.errors import InvalidParameter
from sampan.hub.signatures import COSIGN_SIGNATURE, DSSE, covered_by_dsse
from sampan.image import manifest as media
from sampan.image.manifest import Descriptor, Manifest
from sampan.store.content import ContentStore

PREDICATE_TYPE = "predicateType"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def load_key(pem: bytes) -> PrivateKey:
    """A private key in PEM, not encrypted.  Raises InvalidParameter."""
    if b"ENCRYPTED" in pem.partition(b"\n")[0]:
        raise InvalidParameter(
            "the key is encrypted: give it decrypted, as openssl pkey -in FILE writes it"
        )
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise InvalidParameter("the key is no private key in PEM") from None
    if not isinstance(key, PrivateKey):
        raise InvalidParameter("the key is not of ECDSA, Ed25519 or RSA")
    return key


def envelope(statement: bytes, key: PrivateKey) -> bytes:
    """The statement in an envelope that the key has signed."""
    covered = covered_by_dsse(IN_TOTO, statement)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(covered, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(covered)
    else:
        signature = key.sign(covered, padding.PKCS1v15(), hashes.SHA256())
    return msgspec.json.encode(
        {
            "payloadType": IN_TOTO,
            "payload": base64.b64encode(statement).decode(),
            "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
        }
    )


def about_too(statement: bytes, digest: str) -> bytes:
    """The statement with ``digest`` under each name of its subjects as a further subject."""
    document = msgspec.json.decode(statement)
    algorithm, _, value = digest.partition(":")
    names = dict.fromkeys(subject["name"] for subject in document["subject"])
    document["subject"] += [{"name": name, "digest": {algorithm: value}} for name in names]
    return msgspec.json.encode(document)


def attachment_tag(digest: str) -> str:
    """The tag under which cosign looks for attestations of ``digest``."""
    return digest.replace(":", "-") + ".att"


def attachment(
    content: ContentStore,
    subject: Descriptor,
    envelopes: Sequence[tuple[str, bytes]],
    kept: Sequence[Descriptor] = (),
) -> bytes:
    """Write the envelopes, each with its predicate's type, and the manifest with them and with the
    layers ``kept`` of an earlier one; returns the manifest's bytes."""
    layers = [
        *kept,
        *(
            Descriptor(
                DSSE,
                content.write_bytes(data),
                len(data),
                annotations={COSIGN_SIGNATURE: "", PREDICATE_TYPE: kind},
            )
            for kind, data in envelopes
        ),
    ]
    config = msgspec.json.encode(
        {
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    manifest = media.encode(
        Manifest(
            schema_version=2,
            config=Descriptor(media.OCI_CONFIG, content.write_bytes(config), len(config)),
            layers=tuple(layers),
            artifact_type=DSSE,
            subject=Descriptor(subject.media_type, subject.digest, subject.size),
        )
    )
    content.write_bytes(manifest)
    return manifest
