"""What is attached to images: bills of materials are read, signatures checked, both shown."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509.oid import NameOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.hub import signatures
from sampan.hub.config import HubConfig
from sampan.hub.sbom import Bill, Other, Package, Provenance, read_document
from sampan.hub.signatures import Key, check, load_keys
from sampan.image.manifest import OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tests.hub.conftest import Hubs, Running
from tests.hub.test_hub_registry import manifest, put_blob, put_manifest, sha

IMAGE = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
EVIL = "<script>alert(1)</script>"
SPDX = {
    "spdxVersion": "SPDX-2.3",
    "creationInfo": {"created": "2026-01-02T03:04:05Z", "creators": ["Tool: syft-1", "Person: x"]},
    "packages": [
        {"name": "root", "SPDXID": "SPDXRef-DocumentRoot-x"},
        {
            "name": "zlib1g",
            "versionInfo": "1.3",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "Zlib",
            "supplier": "Organization: Debian",
            "externalRefs": [
                {"referenceType": "purl", "referenceLocator": "pkg:deb/debian/zlib1g@1.3"}
            ],
        },
    ],
}
CYCLONEDX = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "metadata": {"timestamp": "2026-01-02", "tools": {"components": [{"name": "trivy"}]}},
    "components": [
        {
            "name": "left-pad",
            "version": "1.0",
            "purl": "pkg:npm/left-pad@1.0",
            "licenses": [{"license": {"id": "MIT"}}, {"expression": "A OR B"}],
            "components": [{"name": EVIL, "version": "2"}],
        }
    ],
}


def statement(kind: str, predicate: Any, digest: str = IMAGE) -> bytes:
    subject = [{"name": "x", "digest": {"sha256": digest.partition(":")[2]}}]
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": kind,
            "subject": subject,
            "predicate": predicate,
        }
    ).encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_bills_of_both_kinds_are_read() -> None:
    zlib = Package("zlib1g", "1.3", "deb", "Zlib", "Debian")
    for data in (json.dumps(SPDX).encode(), statement("https://spdx.dev/Document", SPDX)):
        assert read_document(data) == Bill("SPDX-2.3", "2026-01-02T03:04:05Z", ("syft-1",), (zlib,))
    pad = Package("left-pad", "1.0", "npm", "MIT, A OR B", "")
    for data in (json.dumps(CYCLONEDX).encode(), statement("https://cyclonedx.org/bom", CYCLONEDX)):
        read = read_document(data)
        assert read == Bill(
            "CycloneDX-1.5", "2026-01-02", ("trivy",), (pad, Package(EVIL, "2", "", "", ""))
        )


def test_provenance_of_both_versions_is_read() -> None:
    materials = [{"uri": "pkg:docker/alpine@3", "digest": {"sha256": "cc"}}]
    old = {
        "builder": {"id": "b"},
        "buildType": "t",
        "materials": materials,
        "metadata": {"buildStartedOn": "1", "buildFinishedOn": "2"},
        "invocation": {"parameters": {"args": {"a": "1"}, "none": None, "list": [1]}},
    }
    new = {
        "buildDefinition": {
            "buildType": "t",
            "resolvedDependencies": materials,
            "externalParameters": {"args": {"a": "1"}, "list": [1]},
        },
        "runDetails": {"builder": {"id": "b"}, "metadata": {"startedOn": "1", "finishedOn": "2"}},
    }
    for version, document in (("v0.2", old), ("v1", new)):
        assert read_document(
            statement(f"https://slsa.dev/provenance/{version}", document)
        ) == Provenance(
            f"SLSA {version}",
            "b",
            "t",
            "1",
            "2",
            (("pkg:docker/alpine@3", "sha256:cc"),),
            (("args.a", "1"), ("list", "[1]")),
        )
    assert isinstance(read_document(statement("https://x.test/odd", {"k": 1})), Other)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["packages", "name", "components", "predicate", "licenses", "tools"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["spdxVersion", "bomFormat", "predicateType", "x"]), st.text())
def test_odd_documents_are_refused_in_one_way(value: Any, key: str, mark: str) -> None:
    document = {**value, key: mark} if isinstance(value, dict) else value
    try:
        read_document(json.dumps(document).encode())
    except InvalidParameter as exc:
        assert str(exc)


def make_keys() -> list[Any]:
    return [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ]


def sign(key: Any, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return bytes(key.sign(data))


def certificate(key: Any, issuer: str = "https://accounts.example.test") -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = datetime.datetime(2026, 1, 1)
    der = b"\x0c" + bytes([len(issuer)]) + issuer.encode()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.RFC822Name("ann@example.test")]), critical=False
        )
        .add_extension(
            x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), der),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()


def payload(digest: str = IMAGE) -> bytes:
    image = {"docker-manifest-digest": digest}
    return json.dumps({"critical": {"image": image, "type": "cosign container image"}}).encode()


def envelope(key: Any, body: bytes, kind: str = "application/vnd.in-toto+json") -> dict[str, Any]:
    covered = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body)
    return {
        "payloadType": kind,
        "payload": b64(body),
        "signatures": [{"sig": b64(sign(key, covered))}],
    }


@pytest.mark.parametrize("index", range(3), ids=["ecdsa", "ed25519", "rsa"])
def test_cosign_signatures(index: int) -> None:
    key = make_keys()[index]
    body = payload()
    annotations = {signatures.COSIGN_SIGNATURE: b64(sign(key, body))}
    trusted = [Key("release", key.public_key())]
    kind = signatures.SIMPLE_SIGNING
    good = check(kind, body, annotations, IMAGE, trusted)
    assert (good.kind, good.verdict, good.signer) == ("cosign", "verified", "release")
    assert check(kind, body, annotations, IMAGE, []).verdict == "unchecked"
    stranger = [Key("other", make_keys()[index].public_key())]
    assert check(kind, body, annotations, IMAGE, stranger).verdict == "unchecked"
    # A signature that somebody moved to another image, and one of a changed payload.
    moved = check(kind, body, annotations, OTHER, trusted)
    assert (moved.verdict, moved.reason) == ("wrong", "it is about another image")
    assert check(kind, payload() + b" ", annotations, IMAGE, trusted).verdict == "unchecked"


def test_certificates_are_claims_and_no_more() -> None:
    key, other, _ = make_keys()
    body = payload()
    cert = certificate(key)
    annotations = {
        signatures.COSIGN_SIGNATURE: b64(sign(key, body)),
        signatures.COSIGN_CERTIFICATE: pem(cert),
    }
    said = check(signatures.SIMPLE_SIGNING, body, annotations, IMAGE, [])
    assert (said.verdict, said.signer, said.issuer) == (
        "certificate",
        "ann@example.test",
        "https://accounts.example.test",
    )
    annotations[signatures.COSIGN_SIGNATURE] = b64(sign(other, body))
    assert check(signatures.SIMPLE_SIGNING, body, annotations, IMAGE, []).verdict == "wrong"


def test_envelopes_bundles_and_notary() -> None:
    key = make_keys()[0]
    trusted = [Key("k", key.public_key())]
    said = statement("https://spdx.dev/Document", SPDX)
    dsse = json.dumps(envelope(key, said)).encode()
    assert check(signatures.DSSE, dsse, {}, IMAGE, trusted).verdict == "verified"
    assert check(signatures.DSSE, dsse, {}, OTHER, trusted).verdict == "wrong"
    der = certificate(key).public_bytes(serialization.Encoding.DER)
    material = {"certificate": {"rawBytes": b64(der)}}
    kind = signatures.BUNDLE + ".v0.3+json"
    bundle = {"verificationMaterial": material, "dsseEnvelope": envelope(key, said)}
    assert check(kind, json.dumps(bundle).encode(), {}, IMAGE, []).verdict == "certificate"
    hashed = key.sign(bytes.fromhex("a" * 64), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    message = {"messageDigest": {"digest": b64(bytes.fromhex("a" * 64))}, "signature": b64(hashed)}
    bundle = {"verificationMaterial": material, "messageSignature": message}
    assert check(kind, json.dumps(bundle).encode(), {}, IMAGE, trusted).verdict == "verified"
    assert check(kind, json.dumps(bundle).encode(), {}, OTHER, trusted).verdict == "wrong"

    def unpadded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    target = unpadded(json.dumps({"targetArtifact": {"digest": IMAGE}}).encode())
    rsa_key = make_keys()[2]
    for algorithm, signer in (("ES256", key), ("PS384", rsa_key)):
        protected = unpadded(json.dumps({"alg": algorithm}).encode())
        covered = f"{protected}.{target}".encode()
        if algorithm == "ES256":
            r, s = utils.decode_dss_signature(key.sign(covered, ec.ECDSA(hashes.SHA256())))
            made = r.to_bytes(32) + s.to_bytes(32)
        else:
            pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
            made = rsa_key.sign(covered, pss, hashes.SHA384())
        der = certificate(signer).public_bytes(serialization.Encoding.DER)
        jws = {
            "payload": target,
            "protected": protected,
            "signature": unpadded(made),
            "header": {"x5c": [b64(der)]},
        }
        said_of = check(signatures.JWS, json.dumps(jws).encode(), {}, IMAGE, [])
        assert (said_of.kind, said_of.verdict) == ("notary", "certificate"), algorithm


@given(
    st.sampled_from(
        [signatures.SIMPLE_SIGNING, signatures.DSSE, signatures.JWS, signatures.BUNDLE, "odd"]
    ),
    st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()),
    st.text(max_size=20),
)
def test_odd_signatures_are_never_verified(kind: str, data: bytes, text: str) -> None:
    annotations = {signatures.COSIGN_SIGNATURE: text, signatures.COSIGN_CERTIFICATE: text}
    assert check(kind, data, annotations, IMAGE, []).verdict in ("unreadable", "unchecked", "wrong")


def test_keys_are_read_or_refused(tmp_path: Path) -> None:
    key = make_keys()[1].public_key()
    file = tmp_path / "release.pub"
    file.write_bytes(
        key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    assert [known.name for known in load_keys([file])] == ["release"]
    (tmp_path / "bad").write_text("no key")
    for name in ("bad", "none"):
        with pytest.raises(InvalidParameter, match="cannot use the key"):
            load_keys([tmp_path / name])


async def put_artifact(
    hub: Running, name: str, layers: list[tuple[str, bytes, dict[str, str]]], **extra: Any
) -> bytes:
    listed = []
    for kind, data, notes in layers:
        await put_blob(hub, "a", data)
        entry = {"mediaType": kind, "digest": sha(data), "size": len(data)}
        listed.append({**entry, "annotations": notes})
    body = manifest(b"{}", layers=listed, **extra)
    done = await put_manifest(hub, "a", name or sha(body), body)
    assert done.status == 201, await done.text()
    return body


async def test_the_page_shows_what_is_attached(hubs: Hubs, tmp_path: Path) -> None:
    key = make_keys()[0]
    (tmp_path / "release.pem").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    hub = await hubs.start(
        HubConfig(root=tmp_path / "hub", anonymous="push", trusted_keys=(tmp_path / "release.pem",))
    )
    await put_blob(hub, "a", b"{}")
    image = manifest(b"{}", annotations={"n": "1"})
    await put_manifest(hub, "a", sha(image), image)
    spdx = statement("https://spdx.dev/Document", SPDX, sha(image))
    attested = await put_artifact(hub, "", [("application/vnd.in-toto+json", spdx, {})])
    platform = {"os": "linux", "architecture": "amd64"}
    unknown = {"os": "unknown", "architecture": "unknown"}
    marks = {
        "vnd.docker.reference.digest": sha(image),
        "vnd.docker.reference.type": "attestation-manifest",
    }
    entries = [
        {"digest": sha(image), "size": len(image), "platform": platform},
        {"digest": sha(attested), "size": len(attested), "platform": unknown, "annotations": marks},
    ]
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [{"mediaType": OCI_MANIFEST, **entry} for entry in entries],
        }
    ).encode()
    await put_manifest(hub, "a", "1", index)
    body = payload(sha(index))
    signed = {signatures.COSIGN_SIGNATURE: b64(sign(key, body))}
    await put_artifact(
        hub, sha(index).replace(":", "-") + ".sig", [(signatures.SIMPLE_SIGNING, body, signed)]
    )
    subject = {"mediaType": OCI_MANIFEST, "digest": sha(image), "size": len(image)}
    bom = json.dumps(CYCLONEDX).encode()
    await put_artifact(
        hub, "", [("application/vnd.cyclonedx+json", bom, {})], subject=subject, artifactType="x/y"
    )
    await put_artifact(
        hub, "", [("text/plain", b"hello", {})], subject=subject, artifactType="x/notes"
    )
    await put_artifact(
        hub, "", [("application/spdx+json", b"{", {})], subject=subject, artifactType="x/broken"
    )

    text = await (await hub.http.get("/r/a/-/tags/1")).text()
    assert "Verified</span> made by the trusted key release" in text
    assert "Packages: 1" in text and "Packages: 2" in text and "Not signed" in text
    assert "x/notes" in text and "cannot be read" in text
    chinese = {"Accept-Language": "zh"}
    text = await (await hub.http.get("/r/a/-/tags/1", headers=chinese)).text()
    assert "由受信任的密钥 release 签署" in text and "软件包：2" in text

    page = f"/r/a/-/documents/{sha(bom)}"
    text = await (await hub.http.get(page)).text()
    assert "left-pad" in text and "MIT" in text and EVIL not in text
    assert "left-pad" not in await (await hub.http.get(page + "?package=nothing")).text()
    assert "zlib1g" in await (await hub.http.get(f"/r/a/-/documents/{sha(spdx)}")).text()
    saved = await hub.http.get(f"/r/a/-/blobs/{sha(bom)}")
    assert await saved.read() == bom
    assert saved.headers["Content-Disposition"].startswith("attachment")
    assert saved.headers["Content-Type"] == "application/octet-stream"
    assert (await hub.http.get(f"/r/a/-/documents/{sha(b'none')}")).status == 404
    assert (await hub.http.get(f"/r/a/-/documents/{sha(b'{')}")).status == 400

    # Who may not see the repository sees no document of it, under any name.
    await put_blob(hub, "b", b"{}")
    await put_manifest(hub, "b", "1", manifest(b"{}"))
    await hub.hub.records.describe("a", description="", readme="", private=True)
    for path in (page, f"/r/a/-/blobs/{sha(bom)}", f"/r/b/-/documents/{sha(bom)}",
                 f"/r/b/-/blobs/{sha(bom)}"):  # fmt: skip
        assert (await hub.http.get(path)).status == 404, path


async def test_an_image_without_attachments_and_one_with_foreign_layers(file_hub: Running) -> None:
    kind = OCI_LAYER.replace("layer", "layer.nondistributable")
    layer = {"mediaType": kind, "digest": OTHER, "size": 7, "urls": ["https://x.test/" + EVIL]}
    await put_blob(file_hub, "a", b"{}")
    await put_manifest(file_hub, "a", "1", manifest(b"{}", layers=[layer]))
    text = await (await file_hub.http.get("/r/a/-/tags/1")).text()
    assert "No signature is attached." in text
    assert "kept elsewhere:" in text and EVIL not in text
