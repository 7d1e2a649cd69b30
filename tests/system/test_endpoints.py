"""The API's wire itself: versions, headers, old HTTP, bad bodies, and what no client library asks."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import tarfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from harness import Daemon


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__("localhost", timeout=20)
        self._path = str(daemon.run / "sampan.sock")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        self.request(method, path, body, headers)
        answer = self.getresponse()
        data = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(data) if is_json and data else data, answer.headers


@pytest.fixture
def wire(daemon: Daemon) -> Connection:
    return Connection(daemon)


@pytest.mark.proves("HEAD /_ping", "GET /_ping")
def test_ping(wire: Connection) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        status, data, headers = wire.ask(method, "/_ping")
        assert (status, data) == (200, body)
        assert headers["Api-Version"] == "1.51"
        assert headers["Ostype"] == "linux"
        assert headers["Docker-Experimental"] == "false"
        assert headers["Builder-Version"] == "1"
        assert headers["Server"].startswith("sampan/")
        assert "no-cache" in headers["Cache-Control"]


@pytest.mark.proves("API versions 1.24 to 1.51")
@pytest.mark.parametrize("version", ["1.24", "1.30", "1.40", "1.41", "1.44", "1.51"])
def test_versions(daemon: Daemon, version: str) -> None:
    with closing(docker.DockerClient(base_url=daemon.url, version=version, timeout=60)) as client:
        assert client.containers.run(
            "busybox", ["echo", version], remove=True
        ).decode().strip() == (version)
        assert client.images.list() and client.networks.list() and client.api.info()


@pytest.mark.parametrize(
    ("version", "text"),
    [("1.23", "client version 1.23 is too old"), ("1.99", "client version 1.99 is too new")],
)
def test_versions_beyond(wire: Connection, version: str, text: str) -> None:
    status, answer, _ = wire.ask("GET", f"/v{version}/info")
    assert status == 400 and answer["message"].startswith(text)


@pytest.mark.proves("POST /session", "POST /grpc", "PUT /volumes/{name}")
def test_refused(daemon: Daemon, wire: Connection) -> None:
    for path in ("/session", "/grpc"):
        status, answer, _ = wire.ask("POST", path)
        assert status == 501 and "BuildKit" in answer["message"]
    daemon.client.volumes.create("plain")
    status, answer, _ = wire.ask("PUT", "/volumes/plain?version=1", b"{}")
    assert status == 503 and "cluster volumes" in answer["message"]
    daemon.client.volumes.get("plain").remove()


@pytest.mark.proves("GET /images/get", "GET /images/{name}/attestations")
def test_images(wire: Connection) -> None:
    status, archive, headers = wire.ask("GET", "/images/get?names=busybox")
    assert status == 200 and headers.get_content_type() == "application/x-tar"
    assert b"manifest.json" in archive
    status, answer, _ = wire.ask("GET", "/images/busybox/attestations")
    assert status == 200 and answer in ([], None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/containers/create", b"{", 400),
        ("POST", "/containers/create", b'{"Image": 5}', 400),
        ("POST", "/containers/create", b'{"Image": "busybox", "HostConfig": {"Memory": "x"}}', 400),
        ("POST", "/containers/create", b"[]", 400),
        ("POST", "/containers/create", b'{"Image": "busybox", "NoSuchField": {"a": 1}}', 201),
        ("POST", "/networks/create", b"null", 400),
        ("POST", "/containers/../../etc/passwd/start", b"", 404),
        ("GET", "/containers/%2e%2e%2f%2e%2e/json", None, 404),
        ("POST", "/containers/create?name=../up", b'{"Image": "busybox"}', 400),
        ("POST", "/containers/create?name=a%00b", b'{"Image": "busybox"}', 400),
        ("POST", "/containers/create", b'{"Image": "../../etc"}', 400),
        ("POST", "/containers/create", b'{"Image": "busybox", "WorkingDir": "up/.."}', 400),
        ("POST", "/volumes/create", b'{"Name": "../../up"}', 400),
        ("POST", "/volumes/create", b'{"Name": "a/b"}', 400),
        ("GET", "/volumes/..%2f..%2fetc", None, 404),
        ("DELETE", "/volumes/%2e%2e", None, 404),
        ("GET", "/images/..%2f..%2fetc/json", None, 400),
        ("POST", "/images/busybox/tag?repo=../x&tag=1", None, 400),
        ("POST", "/images/busybox/tag?repo=x&tag=../1", None, 400),
        ("GET", "/exec/..%2f..%2fetc/json", None, 404),
        ("GET", "/networks/..%2fbridge", None, 404),
        ("GET", "/containers/json?filters=%7B", None, 400),
        ("GET", "/containers/json?limit=x", None, 400),
        ("GET", "/no/such/page", None, 404),
        ("PATCH", "/info", None, 404),
    ],
)
def test_bad_requests(
    wire: Connection, method: str, path: str, body: bytes | None, status: int
) -> None:
    found, answer, _ = wire.ask(method, path, body, **{"Content-Type": "application/json"})
    assert found == status, answer
    assert status == 201 or answer["message"]


def test_old_http_and_keep_alive(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(daemon.run / "sampan.sock"))
        sock.sendall(b"GET /events?since=1&until=2 HTTP/1.0\r\n\r\n")
        seen = b""
        while data := sock.recv(4096):
            seen += data
        assert b" 200 OK" in seen.split(b"\r\n")[0] and b"chunked" not in seen
    wire = Connection(daemon)
    wire.connect()
    first = wire.sock
    for _ in range(3):
        assert wire.ask("GET", "/_ping")[0] == 200
    assert wire.sock is first


@pytest.mark.parametrize("upgrade", [True, False])
@pytest.mark.parametrize("version", ["1.40", "1.44"])
def test_hijack(daemon: Daemon, upgrade: bool, version: str) -> None:
    """By Upgrade: tcp or on the connection as it is; the content type depends on the version."""
    id = daemon.client.api.create_container("busybox", ["cat"], stdin_open=True)["Id"]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(daemon.run / "sampan.sock"))
        head = f"POST /v{version}/containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n"
        head += "Host: x\r\nContent-Length: 0\r\n"
        head += "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" if upgrade else "\r\n"
        sock.sendall(head.encode())
        stream = sock.makefile("rb")
        assert stream.readline() == (
            b"HTTP/1.1 101 UPGRADED\r\n" if upgrade else b"HTTP/1.1 200 OK\r\n"
        )
        headers = b"".join(iter(stream.readline, b"\r\n"))
        kind = b"multiplexed" if version == "1.44" else b"raw"
        assert b"application/vnd.docker.%s-stream" % kind in headers
        daemon.client.api.start(id)
        sock.sendall(b"back and forth\n")
        number, size = struct.unpack(">BxxxI", stream.read(8))
        assert (number, stream.read(size)) == (1, b"back and forth\n")
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b""


def test_paths_of_archives_stay_inside(daemon: Daemon, wire: Connection) -> None:
    """Wherever a path or a link in the container points, it means the container's own files."""
    script = "mkdir /d; ln -s /../../../../etc /d/up; ln -s /proc/self/root/etc /d/root"
    container = daemon.client.containers.run("busybox", ["sh", "-c", script], detach=True)
    container.wait()
    inside = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000"
    for path in ("/../../../etc/passwd", "etc/passwd", "/d/up/passwd", "/d/../d/up/passwd",
                 "//etc//passwd", "/./etc/./passwd"):  # fmt: skip
        chunks, _ = container.get_archive(path)
        assert inside in b"".join(chunks), path
    for path in ("/d/root/passwd", "/etc/passwd%00/x", "/etc/passwd/x", ""):
        status, answer, _ = wire.ask("GET", f"/containers/{container.id}/archive?path={path}")
        assert status in (400, 404), (path, status, answer)
    marker = daemon.root / "marker"
    with pytest.raises(docker.errors.APIError, match="leads out of the archive"):
        container.put_archive("/d", _tar(f"../../../../../../../..{marker}"))
    assert container.put_archive("/d", _tar(str(marker)))
    assert not marker.exists()
    # Through a link that leads out, what is put lands inside.
    assert container.put_archive("/d/up", _tar("put"))
    chunks, _ = container.get_archive("/etc/put")
    assert b"data" in b"".join(chunks)
    assert not Path("/etc/put").exists()


def _tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"data"))
    return buffer.getvalue()


@pytest.mark.slow
def test_load_of_eight_clients(daemon: Daemon) -> None:
    """What a continuous integration host does: eight clients run containers at the same time."""
    failures: list[str] = []
    done: list[int] = []

    def client(number: int) -> None:
        with closing(docker.DockerClient(base_url=daemon.url, timeout=60)) as own:
            for turn in range(8):
                text = f"{number}-{turn}"
                output = own.containers.run("busybox", ["echo", text], remove=True)
                done.append(1)
                if output.decode().strip() != text:
                    failures.append(f"{text}: {output!r}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert failures == []
    assert sum(done) == 64
    assert not any(thread.is_alive() for thread in threads)
    assert daemon.client.containers.list(all=True) == []
