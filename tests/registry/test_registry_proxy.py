"""Registries behind a proxy: plain requests forwarded, TLS tunnelled."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.errors import SampanError
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.registry.config import Proxies, RegistryConfig
from sampan.store.content import ContentStore
from tests.registry.images import make_image
from tests.registry.servers import Registry, docker_registry


@contextlib.asynccontextmanager
async def proxy(target: int, asked: list[str]) -> AsyncIterator[str]:
    """An HTTP proxy that reaches one port, whatever host it is asked for."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        asked.append(head.split(b"\r\n")[0].decode())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
        if head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            up_writer.write(head)  # servers take the absolute form of a request's target too
        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def round_trip(
    config: RegistryConfig, name: str, source: ContentStore, target: ContentStore
) -> None:
    made = make_image(source, [500, 100_000], seed=90)
    async with RegistryClient(config) as client:
        ref = Reference.parse(name)
        await client.push(
            ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore
        )
        pulled = await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    assert pulled.manifest_bytes == made.manifest
    assert target.has(made.layers[1])


async def test_plain_requests_are_forwarded(
    registry: Registry, source: ContentStore, target: ContentStore, tmp_path: Path
) -> None:
    asked: list[str] = []
    async with proxy(registry.port, asked) as address:
        config = RegistryConfig(
            insecure=("plain.invalid:5000",),
            proxies=Proxies(http=address),
            certs_dir=tmp_path / "none",
            backoff=0.01,
        )
        await round_trip(config, "plain.invalid:5000/app:1", source, target)
        bypassed = RegistryConfig(
            insecure=("plain.invalid:5000",),
            proxies=Proxies(http=address, no_proxy=("plain.invalid",)),
            certs_dir=tmp_path / "none",
            attempts=1,
        )
        before = len(asked)
        with pytest.raises(SampanError):
            await round_trip(bypassed, "plain.invalid:5000/app:1", source, target)
        assert len(asked) == before
    assert all(" http://plain.invalid:5000/v2/" in line for line in asked)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key and its certificate for ``secure.invalid``."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=secure.invalid"),
            *("-addext", "subjectAltName=DNS:secure.invalid"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


async def test_tls_is_tunnelled_and_verified(
    source: ContentStore, target: ContentStore, tmp_path: Path
) -> None:
    key, certificate = self_signed(tmp_path)
    tls = f"  tls: {{certificate: {certificate}, key: {key}}}"
    certs = tmp_path / "certs.d" / "secure.invalid"
    certs.mkdir(parents=True)
    (certs / "ca.crt").write_bytes(certificate.read_bytes())
    asked: list[str] = []
    with docker_registry(tmp_path / "registry", tls=tls) as server:
        async with proxy(server.port, asked) as address:
            config = RegistryConfig(
                proxies=Proxies(https=address), certs_dir=tmp_path / "certs.d", backoff=0.01
            )
            await round_trip(config, "secure.invalid/app:1", source, target)
            stranger = RegistryConfig(
                proxies=Proxies(https=address), certs_dir=tmp_path / "none", attempts=1
            )
            with pytest.raises(SampanError, match="certificate"):
                await round_trip(stranger, "secure.invalid/app:1", source, target)
    assert set(asked) == {"CONNECT secure.invalid:443 HTTP/1.1"}
