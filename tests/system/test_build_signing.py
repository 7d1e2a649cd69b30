"""Attestations of builds as cosign-style tools find and read them: referrers, tags, signatures."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from harness import Daemon
from test_build_results import SAMPAN, folder, ok, sampan

from sampan.build.attest.envelopes import about_too, envelope, load_key
from sampan.errors import InvalidParameter
from sampan.hub.signatures import DSSE, Key, check
from tests.registry.servers import docker_registry, free_port, wait_for_port

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SPDX, SLSA = "https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"


@dataclass
class Place:
    """A registry, the hub or another, and the key that the hub trusts."""

    host: str
    key: Path
    public: Key
    is_hub: bool

    def get(self, path: str) -> Any:
        request = urllib.request.Request(f"http://{self.host}/v2/{path}")
        request.add_header("Accept", f"{INDEX}, {MANIFEST}")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def statements(self, name: str, tag: str, digest: str) -> dict[str, Any]:
        """The statements in an attachment, by type; each must be signed and about ``digest``."""
        found = {}
        for layer in self.get(f"{name}/manifests/{tag}")["layers"]:
            assert layer["mediaType"] == DSSE
            assert layer["annotations"]["dev.cosignproject.cosign/signature"] == ""
            with urllib.request.urlopen(
                f"http://{self.host}/v2/{name}/blobs/{layer['digest']}"
            ) as answer:
                data = answer.read()
            checked = check(DSSE, data, layer["annotations"], digest, [self.public])
            assert (checked.verdict, checked.signer) == ("verified", "release")
            statement = json.loads(base64.b64decode(json.loads(data)["payload"]))
            assert statement["predicateType"] == layer["annotations"]["predicateType"]
            found[statement["predicateType"]] = statement
        return found


@pytest.fixture(scope="module", params=["hub", "registry"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("signing")
    key = ec.generate_private_key(ec.SECP256R1())
    (root / "key.pem").write_bytes(pem(key))
    (root / "release.pem").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    public = Key("release", key.public_key())
    if request.param == "registry":
        with docker_registry(root / "registry") as registry:
            yield Place(registry.host, root / "key.pem", public, False)
        return
    port = free_port()
    command = [*SAMPAN, "hub", "serve", "--listen", f"127.0.0.1:{port}", "--root", root / "hub"]
    command += ["--anonymous", "push", "--trusted-key", root / "release.pem"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as hub:
        wait_for_port(port, lambda: hub.poll() is None)
        yield Place(f"127.0.0.1:{port}", root / "key.pem", public, True)
        hub.terminate()


def pem(key: Any) -> bytes:
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return data


def test_signed_attestations(daemon: Daemon, place: Place, tmp_path: Path) -> None:
    context = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL a=b\n")
    name = f"{place.host}/team/signed:1"
    push = ["build", "-q", "--push", "-t", name, "--sign-key", str(place.key)]
    ok(daemon, *push, "--sbom=true", "--provenance=true", context)
    index = place.get("team/signed/manifests/1")
    with urllib.request.urlopen(
        urllib.request.Request(
            f"http://{place.host}/v2/team/signed/manifests/1", headers={"Accept": INDEX}
        )
    ) as answer:
        whole = answer.headers["Docker-Content-Digest"]
    image = index["manifests"][0]["digest"]
    for digest in (whole, image):
        tag = digest.replace(":", "-") + ".att"
        found = place.statements("team/signed", tag, digest)
        assert found.keys() == {SPDX, SLSA}
        assert found[SPDX]["predicate"]["spdxVersion"] == "SPDX-2.3"
        manifest = place.get(f"team/signed/manifests/{tag}")
        assert manifest["subject"]["digest"] == digest and manifest["artifactType"] == DSSE
    # Signed anew, without the bill: what was attached about other things stays.
    before = place.get(f"team/signed/manifests/{tag}")["layers"]
    ok(daemon, *push, "--provenance=true", "--annotation=index:again=1", context)
    after = place.get(f"team/signed/manifests/{tag}")["layers"]
    kinds = [layer["annotations"]["predicateType"] for layer in after]
    assert sorted(kinds) == sorted([SPDX, SLSA])
    assert next(x for x in before if x["annotations"]["predicateType"] == SPDX) in after


def test_where_tools_find_them(daemon: Daemon, place: Place, tmp_path: Path) -> None:
    context = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL c=d\n")
    output = f"type=image,name={place.host}/found:1,push=true,oci-artifact=true"
    flags = ["--sbom=true", "--sign-key", str(place.key), "-o", output]
    ok(daemon, "build", "-q", *flags, context)
    index = place.get("found/manifests/1")
    image, attestation = index["manifests"]
    try:
        listed = place.get(f"found/referrers/{image['digest']}")
    except urllib.error.HTTPError:  # OCI 1.0: under a tag
        listed = place.get(f"found/manifests/{image['digest'].replace(':', '-')}")
    types = {entry["artifactType"]: entry["digest"] for entry in listed["manifests"]}
    assert types[attestation["artifactType"]] == attestation["digest"]
    signed = place.get(f"found/manifests/{types[DSSE]}")
    assert signed["subject"]["digest"] == image["digest"]
    if place.is_hub:
        with urllib.request.urlopen(f"http://{place.host}/r/found/-/tags/1") as answer:
            assert "made by the trusted key release" in answer.read().decode()


def test_what_cannot_be_signed(daemon: Daemon, place: Place, tmp_path: Path) -> None:
    context = folder(tmp_path / "context", Dockerfile="FROM busybox\n")
    other = tmp_path / "text"
    other.write_text("no key\n")
    name = f"{place.host}/unsigned:1"
    cases = [
        (["--push", "-t", name], place.key, 125, "ask for some by --sbom"),
        (["--sbom=false", "--push", "-t", name], place.key, 125, "ask for some by --sbom"),
        (["--sbom=true", "-t", name], place.key, 125, "signs what is pushed: give --push"),
        (["--sbom=true", "--push", "-t", name], tmp_path / "none", 125, "none: No such file"),
        (["--sbom=true", "--push", "-t", name], other, 1, "no private key in PEM"),
    ]
    for flags, key, code, message in cases:
        done = sampan(daemon, "build", "-q", *flags, "--sign-key", str(key), str(context))
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("kind", ["P-256", "P-384", "Ed25519", "RSA"])
def test_keys(kind: str) -> None:
    made: Any = {
        "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    digest = "sha256:" + "0" * 64
    statement = b'{"subject":[{"name":"pkg:docker/a","digest":{"sha256":"1"}}],"predicateType":"t"}'
    data = envelope(about_too(statement, digest), load_key(pem(made)))
    assert check(DSSE, data, {}, digest, [Key("k", made.public_key())]).verdict == "verified"
    assert (
        check(DSSE, data, {}, "sha256:" + "2" * 64, [Key("k", made.public_key())]).verdict
        == "wrong"
    )


def test_keys_that_are_none() -> None:
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(InvalidParameter, match="the key is encrypted"):
        load_key(locked)
    with pytest.raises(InvalidParameter, match="no private key"):
        load_key(b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
