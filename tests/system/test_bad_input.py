"""Bad input and faults: one clear sentence each, and nothing left behind."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, busybox_tar, running, until

Answer = tuple[int, bytes] | tuple[int, bytes, int]


def sentence(daemon: Daemon, *arguments: str, code: int, input: bytes | None = None) -> str:
    """What a docker command says when it fails with *code*: one line, no traceback."""
    done = daemon.docker(*arguments, input=input)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


def names(daemon: Daemon) -> list[str]:
    return daemon.docker("ps", "-a", "--format", "{{.Names}}").stdout.decode().split()


def images(daemon: Daemon) -> list[str]:
    return sorted(daemon.docker("images", "-aq", "--no-trunc").stdout.decode().split())


def blobs(daemon: Daemon) -> set[str]:
    return {p.name for p in (daemon.state / "blobs").rglob("*") if p.is_file()}


def test_unknown_image(daemon: Daemon) -> None:
    text = sentence(daemon, "run", "--pull=never", "nosuch:1", code=125)
    assert "No such image: nosuch:1" in text
    assert names(daemon) == []


def test_no_such_command(daemon: Daemon) -> None:
    text = sentence(daemon, "run", "--rm", "busybox", "nosuch", code=127)
    assert '"nosuch": executable file not found in $PATH' in text
    until(lambda: names(daemon) == [])


def test_not_executable(daemon: Daemon) -> None:
    text = sentence(daemon, "run", "--rm", "busybox", "/etc/passwd", code=126)
    assert "permission denied" in text
    until(lambda: names(daemon) == [])


def test_name_in_use(daemon: Daemon) -> None:
    daemon.docker("create", "--name", "taken", "busybox")
    text = sentence(daemon, "run", "--name", "taken", "busybox", "true", code=125)
    assert 'The container name "/taken" is already in use by container' in text
    assert names(daemon) == ["taken"]


def test_port_in_use(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        text = sentence(
            daemon,
            "run",
            "--name",
            "ported",
            "-p",
            f"127.0.0.1:{port}:80",
            "busybox",
            "true",
            code=125,
        )
        assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in text
        assert names(daemon) == ["ported"]  # Docker keeps it, created, to be started again
    done = daemon.docker("start", "-a", "ported")
    assert done.returncode == 0, done.stderr


class Registry(http.server.ThreadingHTTPServer):
    """A registry that answers each path as a test says: (status, body[, bytes really sent])."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.name = f"127.0.0.1:{self.server_address[1]}"

    def image(self, layer: bytes, *, sent: bytes | None = None, cut: int | None = None) -> None:
        """Offer ``app:1`` with one layer, of which *sent* or the first *cut* bytes are sent."""
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": digest(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                    "size": len(layer),
                    "digest": digest(layer),
                }
            ],
        }
        self.answers["/v2/"] = (200, b"{}")
        self.answers["/v2/app/manifests/1"] = (200, json.dumps(manifest).encode())
        self.answers[f"/v2/app/blobs/{digest(config)}"] = (200, config)
        body = layer if sent is None else sent
        self.answers[f"/v2/app/blobs/{digest(layer)}"] = (200, body, cut or len(body))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path, (404, b"{}"))
        status, body = answer[0], answer[1]
        sent = answer[2] if len(answer) == 3 else len(body)
        self.send_response(status)
        if "/manifests/" in self.path and status == 200:
            self.send_header("Content-Type", json.loads(body)["mediaType"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:sent])
        if sent != len(body):
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def layer_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def test_registry_refuses(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    text = sentence(daemon, "pull", f"127.0.0.1:{port}/app:1", code=1)
    assert "refused" in text
    assert len(text.strip().splitlines()) == 1


def test_registry_denies(daemon: Daemon, registry: Registry) -> None:
    registry.answers["/v2/"] = (200, b"{}")
    registry.answers["/v2/app/manifests/1"] = (403, b'{"errors":[{"code":"DENIED"}]}')
    text = sentence(daemon, "pull", f"{registry.name}/app:1", code=1)
    assert "denied" in text.lower()


def test_registry_has_no_such_image(daemon: Daemon, registry: Registry) -> None:
    registry.answers["/v2/"] = (200, b"{}")
    text = sentence(daemon, "pull", f"{registry.name}/app:1", code=1)
    assert "manifest unknown" in text or "not found" in text


def test_pulls_a_good_image(daemon: Daemon, registry: Registry) -> None:
    """The registry of these tests is one that a pull can work with."""
    registry.image(layer_of(hello=b"hello\n"))
    done = daemon.docker("pull", f"{registry.name}/app:1")
    assert done.returncode == 0, done.stderr
    daemon.docker("rmi", f"{registry.name}/app:1")


def test_connection_dropped_in_a_layer(daemon: Daemon, registry: Registry) -> None:
    before, content = images(daemon), blobs(daemon)
    registry.image(layer_of(big=os.urandom(300_000)), cut=100_000)
    text = sentence(daemon, "pull", f"{registry.name}/app:1", code=1)
    assert len(text.strip().splitlines()) == 1
    assert images(daemon) == before
    assert blobs(daemon) == content


def test_layer_with_a_wrong_digest(daemon: Daemon, registry: Registry) -> None:
    before, content = images(daemon), blobs(daemon)
    good = layer_of(file=b"good" * 1000)
    registry.image(good, sent=good.replace(b"good", b"evil"))
    text = sentence(daemon, "pull", f"{registry.name}/app:1", code=1)
    assert "digest" in text
    assert images(daemon) == before
    assert blobs(daemon) == content


def test_dockerfile_with_an_error(daemon: Daemon, tmp_path: Path) -> None:
    before = images(daemon)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo fine\nCOPPY a b\n")
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        ["docker", "-H", daemon.url, "build", str(tmp_path)], capture_output=True, env=environment
    )
    text = done.stderr.decode()
    assert done.returncode == 1
    assert "COPPY" in text and "line 3" in text
    assert "Traceback" not in text
    assert images(daemon) == before


def hostile(entry: tarfile.TarInfo, *more: tarfile.TarInfo) -> bytes:
    """A root file system's tar with entries that try to leave it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for item in (entry, *more):
            data = b"escaped\n" if item.isreg() else b""
            item.size = len(data)
            tar.addfile(item, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o755
    return info


def test_tar_with_dots(daemon: Daemon, tmp_path: Path) -> None:
    up = "../" * 12 + str(tmp_path / "dots").lstrip("/")
    daemon.docker("import", "-", "hostile:1", input=hostile(entry("a"), entry(up)))
    daemon.docker("create", "--name", "hh", "hostile:1", "a")
    daemon.docker("rmi", "-f", "hostile:1")
    assert not (tmp_path / "dots").exists()


def test_tar_with_absolute_name(daemon: Daemon, tmp_path: Path) -> None:
    name = str(tmp_path / "absolute")
    daemon.docker("import", "-", "hostile:1", input=hostile(entry("a"), entry(name)))
    daemon.docker("rmi", "-f", "hostile:1")
    assert not Path(name).exists()


def test_tar_with_symlinked_parent(daemon: Daemon, tmp_path: Path) -> None:
    evil = hostile(
        entry("out", tarfile.SYMTYPE, str(tmp_path)),
        entry("out/linked"),
        entry("hard", tarfile.LNKTYPE, str(tmp_path / "target")),
    )
    (tmp_path / "target").write_text("mine")
    daemon.docker("import", "-", "hostile:1", input=evil)
    daemon.docker("rmi", "-f", "hostile:1")
    assert not (tmp_path / "linked").exists()
    assert (tmp_path / "target").stat().st_nlink == 1


def test_ctrl_c_in_run(daemon: Daemon) -> None:
    command = ["docker", "-H", daemon.url, "run", "--rm", "busybox", "sh", "-c"]
    script = "trap 'exit 42' INT; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen([*command, script], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(signal.SIGINT)
        assert client.wait(20) == 42
    until(lambda: names(daemon) == [])


def test_ctrl_c_in_build(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo started; sleep 1000\n")
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    command = ["docker", "-H", daemon.url, "build", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
        assert client.stdout is not None
        assert any(line == b"started\n" for line in client.stdout)
        client.send_signal(signal.SIGINT)
        client.wait(20)
    sleeping = b"sleep\0" + b"1000\0"

    def gone() -> bool:
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdecimal():
                    root = os.readlink(process / "root")
                    if sleeping in (process / "cmdline").read_bytes() and root == "/":
                        group = (process / "cgroup").read_text()
                        if daemon.cgroup_parent in group:
                            return False
            except OSError:
                continue
        return True

    until(gone)
    assert names(daemon) == []


@pytest.fixture
def small_daemon() -> Iterator[Daemon]:
    """A daemon whose state is on a file system of 12 MB."""
    with tempfile.TemporaryDirectory(prefix="smd") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", folder], check=True)
        try:
            for daemon in running("--state-dir", folder):
                daemon.state = Path(folder)
                yield daemon
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(small_daemon: Daemon, registry: Registry) -> None:
    daemon = small_daemon
    before, content = images(daemon), blobs(daemon)
    registry.image(layer_of(big=os.urandom(20_000_000)))
    text = sentence(daemon, "pull", f"{registry.name}/app:1", code=1)
    assert "no space left" in text.lower()
    assert images(daemon) == before
    assert blobs(daemon) == content

    fill = ["dd", "if=/dev/urandom", "of=/f", "bs=1M", "count=5"]
    done = daemon.docker("run", "--name", "grown", "busybox", *fill)
    assert done.returncode == 0, done.stderr
    text = sentence(daemon, "commit", "grown", "grown:1", code=1)
    assert "no space left" in text.lower()
    assert images(daemon) == before
    assert blobs(daemon) == content
    daemon.docker("rm", "grown")
    assert daemon.docker("run", "--rm", "busybox", "echo", "on").stdout == b"on\n"


def test_the_image_is_a_real_one() -> None:
    """Guards the helper that every test here relies on."""
    with tarfile.open(fileobj=io.BytesIO(busybox_tar())) as tar:
        assert "bin/busybox" in tar.getnames()
