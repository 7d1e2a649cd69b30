"""Clients that go away in the middle: the work ends, and nothing of it is left."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, until


class UnixConnection(http.client.HTTPConnection):
    """A plain HTTP connection to the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__("localhost", timeout=60)
        self._path = daemon.url.removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def hang_up(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.close()


@dataclass
class SlowRegistry:
    """A registry whose layer never ends; ``left`` is set when its client hangs up."""

    port: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["plain", "compressed"])
def slow_registry(request: pytest.FixtureRequest) -> Iterator[SlowRegistry]:
    registry = SlowRegistry()
    layer = digest(b"never sent")
    # A compressed layer is unpacked while it is being received.
    inside = layer if request.param == "plain" else digest(b"unpacked")
    sent = bytes(1 << 16) if request.param == "plain" else gzip.compress(os.urandom(1 << 16))
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [inside]}}
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {
                "mediaType": f"{kind}.config.v1+json",
                "digest": digest(config),
                "size": len(config),
            },
            "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": layer, "size": 10 << 20}],
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body: bytes, media_type: str, length: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def do_GET(self) -> None:
            if "/manifests/" in self.path:
                self.answer(manifest, f"{kind}.manifest.v1+json")
            elif self.path.endswith(digest(config)):
                self.answer(config, "application/octet-stream")
            elif self.path.endswith(layer):
                self.answer(sent, "application/octet-stream", 10 << 20)
                registry.asked.set()
                assert self.connection.recv(1) == b""
                registry.left.set()
                self.close_connection = True
            else:
                self.answer(b"{}", "application/json")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield registry
    server.shutdown()
    server.server_close()


def names(daemon: Daemon) -> set[str]:
    return {tag for image in daemon.client.images.list(all=True) for tag in image.tags}


def test_pull(daemon: Daemon, slow_registry: SlowRegistry) -> None:
    name = f"127.0.0.1:{slow_registry.port}/slow"
    connection = UnixConnection(daemon)
    connection.request("POST", f"/images/create?fromImage={name}&tag=1")
    answer = connection.getresponse()
    assert b"Pulling from slow" in answer.readline()
    assert slow_registry.asked.wait(20)
    connection.hang_up()
    assert slow_registry.left.wait(20), "the daemon goes on pulling"
    assert not any(tag.startswith(name) for tag in names(daemon))


def test_the_daemon_ends_while_it_pulls(own_daemon: Daemon, slow_registry: SlowRegistry) -> None:
    connection = UnixConnection(own_daemon)
    name = f"127.0.0.1:{slow_registry.port}/slow"
    connection.request("POST", f"/images/create?fromImage={name}&tag=1")
    assert b"Pulling from slow" in connection.getresponse().readline()
    assert slow_registry.asked.wait(20)
    assert own_daemon.stop() == 0
    assert slow_registry.left.wait(20)
    own_daemon.start()
    assert not any(tag.startswith(name) for tag in names(own_daemon))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/images/load"),
        ("POST", "/images/create?fromSrc=-&repo=cut"),
        ("POST", "/build?t=cut:1"),
        ("PUT", "/containers/cut/archive?path=/tmp"),
    ],
)
def test_uploads(daemon: Daemon, method: str, path: str) -> None:
    container = daemon.client.containers.create("busybox", name="cut")
    folders = daemon.state / "ingest", daemon.state / "tmp" / "contexts"

    def contents() -> set[Path]:
        return {path for folder in folders if folder.exists() for path in folder.iterdir()}

    before = contents()  # a pull that broke off leaves what it has, to resume
    connection = UnixConnection(daemon)
    connection.putrequest(method, path)
    connection.putheader("Content-Length", str(10 << 20))
    connection.endheaders(bytes(1 << 20))
    connection.hang_up()
    until(lambda: contents() == before)
    container.remove()
    assert not any(tag.startswith("cut") for tag in names(daemon))


def test_slow_uploads_hold_nobody_up(daemon: Daemon) -> None:
    container = daemon.client.containers.create("busybox", name="slow")
    held: list[Any] = []
    try:
        for _ in range(30):
            connection = UnixConnection(daemon)
            connection.putrequest("PUT", "/containers/slow/archive?path=/tmp")
            connection.putheader("Content-Length", "1024")
            connection.endheaders(b"x")
            held.append(connection)
        other = daemon.client.containers.run("busybox", ["true"], detach=True)
        assert other.wait(timeout=10)["StatusCode"] == 0
    finally:
        for connection in held:
            connection.hang_up()
        container.remove()
