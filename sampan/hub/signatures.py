"""Reading signatures of images and checking what can be checked: cosign's, Sigstore bundles, and
Notary's (JWS).

What a verdict says, and no more:

``verified``      made by a key that this hub was told to trust
``certificate``   made by the key of the certificate that comes with it; nobody here vouches for
                  the certificate, so who made it is a claim
``unchecked``     no key that is known here made it
``wrong``         it is broken, or it is about another image
``unreadable``    of a kind that is not read here
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509.oid import NameOID, ObjectIdentifier

from sampan.errors import InvalidParameter
from sampan.hub.sbom import statement

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle"
NOTARY = "application/vnd.cncf.notary.signature"
JWS = "application/jose+json"
COSIGN_SIGNATURE = "dev.cosignproject.cosign/signature"
COSIGN_CERTIFICATE = "dev.sigstore.cosign/certificate"
_ISSUERS = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")

Verdict = Literal["verified", "certificate", "unchecked", "wrong", "unreadable"]
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that the hub trusts."""

    name: str
    key: PublicKey


@dataclass(frozen=True, slots=True)
class Checked:
    """A signature: its kind, who made it (a key's name, or a certificate's claim), and whether."""

    kind: str
    verdict: Verdict
    signer: str = ""
    issuer: str = ""
    reason: str = ""


def load_keys(paths: Sequence[Path]) -> tuple[Key, ...]:
    """Public keys in PEM; a key is called by its file's name.  Raises InvalidParameter."""
    keys = []
    for path in paths:
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as exc:
            raise InvalidParameter(f"cannot use the key {path}: {exc}") from exc
        if not isinstance(key, PublicKey):
            raise InvalidParameter(f"cannot use the key {path}: it is not of ECDSA, RSA or Ed25519")
        keys.append(Key(path.stem, key))
    return tuple(keys)


class _Identity(msgspec.Struct, rename="kebab"):
    docker_manifest_digest: str = ""


class _Critical(msgspec.Struct):
    image: _Identity


class _SimpleSigning(msgspec.Struct):
    critical: _Critical


class _DsseSignature(msgspec.Struct):
    sig: str
    cert: str = ""


class _Envelope(msgspec.Struct, rename="camel"):
    payload_type: str
    payload: str
    signatures: list[_DsseSignature]


class _Certificate(msgspec.Struct, rename="camel"):
    raw_bytes: str = ""


class _Chain(msgspec.Struct):
    certificates: list[_Certificate] = []


class _Material(msgspec.Struct, rename="camel"):
    certificate: _Certificate | None = None
    x509_certificate_chain: _Chain | None = msgspec.field(name="x509CertificateChain", default=None)


class _MessageDigest(msgspec.Struct):
    algorithm: str = ""
    digest: str = ""


class _MessageSignature(msgspec.Struct, rename="camel"):
    signature: str
    message_digest: _MessageDigest = msgspec.field(default_factory=_MessageDigest)


class _Bundle(msgspec.Struct, rename="camel"):
    verification_material: _Material = msgspec.field(default_factory=_Material)
    dsse_envelope: _Envelope | None = None
    message_signature: _MessageSignature | None = None


class _JwsHeader(msgspec.Struct):
    x5c: list[str] = []


class _Jws(msgspec.Struct):
    payload: str
    protected: str
    signature: str
    header: _JwsHeader = msgspec.field(default_factory=_JwsHeader)


class _Protected(msgspec.Struct):
    alg: str


class _Target(msgspec.Struct):
    digest: str


class _NotaryPayload(msgspec.Struct, rename="camel"):
    target_artifact: _Target


@dataclass(frozen=True, slots=True)
class _Signed:
    """What a signature is made of: it covers ``data``; ``about`` whether that names the image."""

    kind: str
    data: bytes
    signature: bytes
    certificate: bytes
    about: bool
    scheme: str = ""


def check(
    media_type: str, data: bytes, annotations: dict[str, str], digest: str, keys: Sequence[Key]
) -> Checked:
    """The signature that a blob of ``media_type`` with ``annotations`` is, of image ``digest``."""
    try:
        signed = _read(media_type, data, annotations, digest)
    except (msgspec.MsgspecError, InvalidParameter, UnicodeDecodeError, ValueError) as exc:
        return Checked(media_type, "unreadable", reason=str(exc))
    if signed is None:
        return Checked(media_type, "unreadable")
    certificate = _certificate(signed.certificate)
    signer, issuer = _claims(certificate) if certificate else ("", "")
    if not signed.about:
        return Checked(signed.kind, "wrong", signer, issuer, "it is about another image")
    for known in keys:
        if _fits(known.key, signed):
            return Checked(signed.kind, "verified", known.name)
    if certificate is None:
        return Checked(signed.kind, "unchecked")
    key = certificate.public_key()
    if isinstance(key, PublicKey) and _fits(key, signed):
        return Checked(signed.kind, "certificate", signer, issuer)
    return Checked(signed.kind, "wrong", signer, issuer, "its certificate's key did not make it")


def is_signature(media_type: str) -> bool:
    """Whether :func:`check` knows blobs of this type as signatures."""
    return media_type in (SIMPLE_SIGNING, DSSE, JWS) or media_type.startswith(BUNDLE)


def signed_statement(media_type: str, data: bytes) -> bytes | None:
    """The in-toto statement in an envelope or bundle, if there is one."""
    try:
        envelope = _envelope(media_type, data)
        if envelope is None or envelope.payload_type != "application/vnd.in-toto+json":
            return None
        return _unbase64(envelope.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None


def _envelope(media_type: str, data: bytes) -> _Envelope | None:
    if media_type == DSSE:
        return msgspec.json.decode(data, type=_Envelope)
    if media_type.startswith(BUNDLE):
        return msgspec.json.decode(data, type=_Bundle).dsse_envelope
    return None


def _read(media_type: str, data: bytes, annotations: dict[str, str], digest: str) -> _Signed | None:
    if media_type == SIMPLE_SIGNING:
        named = msgspec.json.decode(data, type=_SimpleSigning).critical.image
        return _Signed(
            "cosign",
            data,
            _unbase64(annotations.get(COSIGN_SIGNATURE, "")),
            annotations.get(COSIGN_CERTIFICATE, "").encode(),
            named.docker_manifest_digest == digest,
        )
    if media_type == DSSE:
        envelope = msgspec.json.decode(data, type=_Envelope)
        certificate = annotations.get(COSIGN_CERTIFICATE, "")
        return _dsse("cosign", envelope, certificate.encode(), digest)
    if media_type.startswith(BUNDLE):
        return _bundle(msgspec.json.decode(data, type=_Bundle), digest)
    if media_type == JWS:
        return _notary(msgspec.json.decode(data, type=_Jws), digest)
    return None


def covered_by_dsse(payload_type: str, payload: bytes) -> bytes:
    """What the signatures of an envelope are of: its *pre-authentication encoding*."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _dsse(kind: str, envelope: _Envelope, certificate: bytes, digest: str) -> _Signed | None:
    if not envelope.signatures:
        return None
    payload = _unbase64(envelope.payload)
    covered = covered_by_dsse(envelope.payload_type, payload)
    first = envelope.signatures[0]
    return _Signed(
        kind,
        covered,
        _unbase64(first.sig),
        certificate or first.cert.encode(),
        statement(payload).is_about(digest),
    )


def _bundle(bundle: _Bundle, digest: str) -> _Signed | None:
    material = bundle.verification_material
    chain = material.x509_certificate_chain
    first = material.certificate or (
        chain.certificates[0] if chain and chain.certificates else None
    )
    certificate = _unbase64(first.raw_bytes) if first else b""
    if bundle.dsse_envelope:
        return _dsse("sigstore", bundle.dsse_envelope, certificate, digest)
    if bundle.message_signature is None:
        return None
    # It covers the manifest's bytes, of which only the digest is at hand here.
    message = bundle.message_signature
    algorithm, _, encoded = digest.partition(":")
    covered = bytes.fromhex(encoded)
    about = algorithm == "sha256" and _unbase64(message.message_digest.digest) == covered
    return _Signed(
        "sigstore", covered, _unbase64(message.signature), certificate, about, "prehashed"
    )


def _notary(jws: _Jws, digest: str) -> _Signed:
    payload = msgspec.json.decode(_unbase64(jws.payload), type=_NotaryPayload)
    protected = msgspec.json.decode(_unbase64(jws.protected), type=_Protected)
    return _Signed(
        "notary",
        f"{jws.protected}.{jws.payload}".encode(),
        _unbase64(jws.signature),
        _unbase64(jws.header.x5c[0]) if jws.header.x5c else b"",
        payload.target_artifact.digest == digest,
        protected.alg,
    )


def _fits(key: PublicKey, signed: _Signed) -> bool:
    """Whether ``key`` made the signature."""
    algorithm: hashes.HashAlgorithm = {
        "384": hashes.SHA384(),
        "512": hashes.SHA512(),
    }.get(signed.scheme[2:], hashes.SHA256())
    digest: Any = algorithm
    if signed.scheme == "prehashed":
        digest = utils.Prehashed(hashes.SHA256())
    signature = signed.signature
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed.data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if signed.scheme.startswith("ES"):
                half = len(signature) // 2
                r, s = (int.from_bytes(part) for part in (signature[:half], signature[half:]))
                signature = utils.encode_dss_signature(r, s)
            key.verify(signature, signed.data, ec.ECDSA(digest))
        elif signed.scheme.startswith("PS"):
            pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
            key.verify(signature, signed.data, pss, algorithm)
        else:
            key.verify(signature, signed.data, padding.PKCS1v15(), digest)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _certificate(data: bytes) -> x509.Certificate | None:
    if not data:
        return None
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        return x509.load_pem_x509_certificate(base64.b64decode(data))
    return None


def _claims(certificate: x509.Certificate) -> tuple[str, str]:
    """Whom a certificate names, and who it says identified them."""
    names: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += found.get_values_for_type(x509.RFC822Name)
        names += found.get_values_for_type(x509.UniformResourceIdentifier)
    names += [
        str(attribute.value)
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    for oid in _ISSUERS:
        with contextlib.suppress(x509.ExtensionNotFound, ValueError):
            value = certificate.extensions.get_extension_for_oid(ObjectIdentifier(oid)).value
            if isinstance(value, x509.UnrecognizedExtension):
                raw = value.value
                # The newer one is a DER string: a tag and a short length before the text.
                text = raw[2:] if raw[:1] == b"\x0c" and len(raw) < 130 else raw
                return (names or [""])[0], text.decode("utf-8", "replace")
    issued = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (names or [""])[0], str(issued[0].value) if issued else ""


def _unbase64(text: str) -> bytes:
    """Base64 of either alphabet, padded or not.  Raises ValueError."""
    plain = text.strip().replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as exc:
        raise ValueError(f"not base64: {exc}") from None
