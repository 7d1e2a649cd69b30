"""Credentials and TLS against real registries and a token server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pytest
from aiohttp import web

from sampan.errors import InvalidParameter, NotFound, Unauthorized, Unavailable
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.auth import Auth
from sampan.registry.authorizer import parse_challenges
from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.registry.images import make_image
from tests.registry.servers import docker_registry


def test_challenges_are_read_as_the_rfc_says() -> None:
    (bearer, basic) = parse_challenges(
        [
            'Bearer realm="https://a/token",service="x, y",scope="repository:a:pull"',
            'Basic realm="r"',
        ]
    )
    assert bearer.scheme == "bearer" and bearer.parameters["service"] == "x, y"
    assert basic.scheme == "basic"
    both = parse_challenges(['Basic realm="a \\"b\\"", Bearer realm=plain'])
    assert [c.scheme for c in both] == ["basic", "bearer"]
    assert both[0].parameters["realm"] == 'a "b"'
    assert parse_challenges([""]) == []


def test_the_header_of_the_engine_api_is_read() -> None:
    wire = {"username": "ann", "password": "secret", "serveraddress": "127.0.0.1:5000"}
    header = base64.urlsafe_b64encode(json.dumps(wire).encode()).decode()
    assert Auth.from_header(header) == Auth("ann", "secret", server_address="127.0.0.1:5000")
    pair = {"auth": base64.b64encode(b"bob:a:b").decode()}
    header = base64.urlsafe_b64encode(json.dumps(pair).encode()).decode().rstrip("=")
    assert Auth.from_header(header) == Auth("bob", "a:b")
    assert Auth.from_header(None) is None
    assert Auth.from_header(base64.urlsafe_b64encode(b"{}").decode()) is None
    with pytest.raises(InvalidParameter, match="X-Registry-Auth"):
        Auth.from_header("%%%")


async def test_basic_authentication(
    tmp_path: Path, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(5)).decode()
    (tmp_path / "htpasswd").write_text(f"ann:{hashed}\n")
    extra = f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/htpasswd}}}}"
    made = make_image(source, [1000], seed=90)
    with docker_registry(tmp_path / "registry", extra) as server:
        ref = Reference.parse(f"{server.host}/private:1")
        good, bad = Auth("ann", "secret"), Auth("ann", "wrong")
        assert await client.check_auth(server.host, good) == ""
        with pytest.raises(Unauthorized, match="login attempt"):
            await client.check_auth(server.host, bad)
        for auth in (None, bad):
            with pytest.raises(Unauthorized, match="push access denied"):
                await client.push(
                    ref, auth=auth, manifest_bytes=made.manifest, content=source, report=ignore
                )
        await client.push(
            ref, auth=good, manifest_bytes=made.manifest, content=source, report=ignore
        )
        with pytest.raises(Unauthorized, match="authentication required"):
            await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
        await client.pull(ref, auth=good, platform=None, content=target, report=ignore)
    assert target.has(made.layers[0])


@contextlib.asynccontextmanager
async def serve(app: web.Application, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_the_token_flow_asks_once_for_each_scope_and_renews() -> None:
    """A registry that wants a bearer token for each scope, and revokes the first one."""
    asked: list[dict[str, str]] = []
    revoked: set[str] = set()

    async def token(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            form = await request.post()
            assert form["grant_type"] == "refresh_token" and form["refresh_token"] == "identity"
            asked.append({"scope": str(form["scope"]), "user": "identity"})
        else:
            header = request.headers.get("Authorization", "")
            if header and header != "Basic " + base64.b64encode(b"ann:secret").decode():
                return web.json_response({"details": "incorrect username or password"}, status=401)
            asked.append(
                {"scope": request.query["scope"], "user": request.query.get("account", "")}
            )
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        await answer.write(f'{{"token": "t{len(asked)}", '.encode())
        await asyncio.sleep(0.01)  # so that it arrives in two pieces
        await answer.write(b'"expires_in": 300}')
        return answer

    async def tags(request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not given.startswith("Bearer t") or given in revoked:
            realm = f"http://{request.host}/token"
            challenge = f'Bearer realm="{realm}",service="s",scope="repository:a/b:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if "last" in request.query:
            return web.json_response({"name": "a/b", "tags": ["2"]})
        revoked.add(given)
        link = '</v2/a/b/tags/list?last=1>; rel="next"'
        return web.json_response({"name": "a/b", "tags": ["1"]}, headers={"Link": link})

    app = web.Application()
    app.add_routes(
        [
            web.get("/token", token),
            web.post("/token", token),
            web.get("/v2/", tags),
            web.get("/v2/a/b/tags/list", tags),
        ]
    )
    async with serve(app) as port, RegistryClient(RegistryConfig()) as client:
        ref = Reference.parse(f"127.0.0.1:{port}/a/b")
        assert await client.tags(ref, auth=Auth("ann", "secret")) == ["1", "2"]
        # The first token was revoked between the pages: a second one was fetched.
        assert asked == [{"scope": "repository:a/b:pull", "user": "ann"}] * 2
        await client.tags(ref, auth=Auth(identity_token="identity"))
        assert asked[2]["user"] == "identity"
        with pytest.raises(Unauthorized, match="incorrect username or password"):
            await client.tags(ref, auth=Auth("ann", "wrong"))
        await client.tags(ref, auth=None)
        assert asked[-1]["user"] == ""


async def test_tls_needs_a_known_authority(
    tmp_path: Path, source: ContentStore, target: ContentStore
) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=registry",
        "-addext", "subjectAltName=IP:127.0.0.1",
    ]  # fmt: skip
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    made = make_image(source, [1000], seed=91)
    tls = f"  tls: {{certificate: {cert}, key: {key}}}"
    with docker_registry(tmp_path / "registry", tls=tls) as server:
        certs = tmp_path / "certs.d"
        ref = Reference.parse(f"{server.host}/tls:1")
        (certs / server.host).mkdir(parents=True)
        async with RegistryClient(RegistryConfig(certs_dir=certs)) as client:
            with pytest.raises(Unavailable, match="failed to verify certificate"):
                await client.push(
                    ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore
                )
        (certs / server.host / "ca.crt").write_bytes(cert.read_bytes())
        other = tmp_path / "certs2.d"
        other.mkdir()
        (certs).rename(tmp_path / "moved.d")
        config = RegistryConfig(certs_dir=tmp_path / "moved.d")
        async with RegistryClient(config) as client:
            await client.push(
                ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore
            )
        # Loopback without a folder of its own is reached without verification.
        async with RegistryClient(RegistryConfig(certs_dir=other)) as client:
            await client.pull(ref, auth=None, platform=None, content=target, report=ignore)
    assert target.has(made.layers[0])


async def test_denied_pulls_are_worded_as_docker_words_them(target: ContentStore) -> None:
    async def deny(request: web.Request) -> web.Response:
        if request.path == "/v2/":
            return web.Response()
        body = {"errors": [{"code": "DENIED", "message": "requested access is denied"}]}
        return web.json_response(body, status=403)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", deny)
    async with serve(app) as port, RegistryClient(RegistryConfig()) as client:
        with pytest.raises(
            NotFound, match=r"pull access denied for 127.*may require 'docker login'"
        ):
            await client.pull(
                Reference.parse(f"127.0.0.1:{port}/x"),
                auth=None,
                platform=None,
                content=target,
                report=ignore,
            )
