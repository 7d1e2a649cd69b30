"""Digests, manifests and configurations."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from sampan.image import config, digest, manifest

HEX = "a" * 64


def test_digest_forms() -> None:
    assert digest.parse(f"sha256:{HEX}") == f"sha256:{HEX}"
    for bad in (
        "",
        HEX,
        "sha256:",
        f"sha256:{HEX[1:]}",
        f"md5:{HEX}",
        f"sha256:{HEX}\n",
        "sha256:../x",
    ):
        with pytest.raises(digest.InvalidDigest):
            digest.split(bad)
    assert digest.sha256(b"x") == "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert digest.verify(b"x", digest.sha256(b"x"))
    assert not digest.verify(b"y", digest.sha256(b"x"))


def test_manifest_round_trip_and_kinds() -> None:
    descriptor = manifest.Descriptor(manifest.OCI_CONFIG, f"sha256:{HEX}", 3)
    value = manifest.Manifest(schema_version=2, config=descriptor, layers=(descriptor,))
    data = manifest.encode(value)
    assert data.startswith(b'{"schemaVersion":2,"mediaType":"' + manifest.OCI_MANIFEST.encode())
    assert manifest.decode(data) == value
    index = manifest.encode(manifest.Index(schema_version=2, manifests=(descriptor,)))
    assert isinstance(manifest.decode(index), manifest.Index)
    with pytest.raises(manifest.InvalidManifest, match="index"):
        manifest.decode_manifest(index)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion":1}',
        b'{"schemaVersion":2,"config":{},"manifests":[]}',
        b'{"schemaVersion":2,"config":{"digest":"../../etc/passwd","mediaType":"x","size":1}}',
    ],
)
def test_bad_manifests(data: bytes) -> None:
    with pytest.raises(manifest.InvalidManifest):
        manifest.decode(data)


def test_config_reads_docker_and_writes_the_same_each_time() -> None:
    text = (
        b'{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":null,"Labels":null,'
        b'"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["NONE"]},"OnBuild":null},'
        b'"rootfs":{"type":"layers","diff_ids":["sha256:' + HEX.encode() + b'"]},'
        b'"history":null,"unknown":1}'
    )
    decoded = config.decode(text)
    assert decoded.config.env == ["A=b"]
    assert decoded.config.exposed_ports == {"80/tcp": {}}
    assert config.decode(config.encode(decoded)) == decoded
    assert config.encode(decoded) == config.encode(config.decode(config.encode(decoded)))
    for bad in (b"", b"[]", b'{"rootfs":{"diff_ids":["x"]}}'):
        with pytest.raises(config.InvalidConfig):
            config.decode(bad)


def test_chain_ids_follow_the_specification() -> None:
    first, second = f"sha256:{HEX}", f"sha256:{'b' * 64}"
    assert config.chain_ids([]) == []
    assert config.chain_id([]) is None
    expected = "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert config.chain_ids([first, second]) == [first, expected]
    assert msgspec.json.decode(config.encode(config.ImageConfig()))["rootfs"]["diff_ids"] == []
