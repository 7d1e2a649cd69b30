"""Builds that are interrupted, that fill the disk, that lose their registry or their daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import Daemon, running, until
from test_build_api import sleeping
from test_build_results import SAMPAN, environment, folder, ok, sampan
from test_cancelled import SlowRegistry, slow_registry  # noqa: F401

from tests.registry.servers import docker_registry


def begun(daemon: Daemon, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*SAMPAN, *words],
        env=environment(daemon),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def interrupted(client: subprocess.Popen[bytes]) -> str:
    """Ctrl-C; returns what it says then."""
    client.send_signal(signal.SIGINT)
    said = client.communicate(timeout=20)[1].decode()
    assert client.returncode == 130, said
    assert "Traceback" not in said
    return said


def nothing_left(daemon: Daemon) -> bool:
    contexts = daemon.state / "tmp" / "contexts"
    return not (
        contexts.exists() and any(contexts.iterdir())
    ) and not daemon.client.containers.list(all=True)


def test_ctrl_c_while_a_huge_context_is_sent(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nCOPY small /\n", small="x")
    with (tmp_path / "context" / "disk.img").open("wb") as file:
        file.truncate(3 << 30)
    client = begun(daemon, "build", place)
    assert client.stderr is not None
    warning = client.stderr.readline().decode()
    assert "WARNING: the build context has 3.2" in warning, warning
    assert "disk.img (3.2" in warning and ".dockerignore" in warning
    contexts = daemon.state / "tmp" / "contexts"
    until(lambda: any(path.stat().st_size for path in contexts.glob("*/*")))
    interrupted(client)
    until(lambda: nothing_left(daemon))


def test_ctrl_c_while_a_base_is_pulled(
    daemon: Daemon,
    tmp_path: Path,
    slow_registry: SlowRegistry,  # noqa: F811
) -> None:
    name = f"127.0.0.1:{slow_registry.port}/slow:1"
    place = folder(tmp_path / "context", Dockerfile=f"FROM {name}\n")
    client = begun(daemon, "build", place)
    assert slow_registry.asked.wait(20)
    interrupted(client)
    assert slow_registry.left.wait(20), "the daemon goes on pulling"
    until(lambda: nothing_left(daemon))


def test_ctrl_c_in_a_command(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nRUN sleep 987654\n")
    client = begun(daemon, "build", place)
    until(lambda: sleeping(987654))
    interrupted(client)
    until(lambda: not sleeping(987654) and nothing_left(daemon))


def test_ctrl_c_while_the_result_is_written(daemon: Daemon, tmp_path: Path) -> None:
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nLABEL export=cut\n")
    client = begun(daemon, "build", "-o", "type=tar,dest=-", place)
    assert client.stdout is not None
    # The pipe is full after this, and nobody reads on.
    assert len(client.stdout.read(512)) == 512
    interrupted(client)
    until(lambda: nothing_left(daemon))


@pytest.fixture
def small_daemon() -> Iterator[Daemon]:
    """A daemon whose state is on a file system of 24 MB."""
    with tempfile.TemporaryDirectory(prefix="smd") as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "small", place], check=True)
        try:
            for daemon in running("--state-dir", place):
                daemon.state = Path(place)
                yield daemon
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_daemon: Daemon, tmp_path: Path) -> None:
    daemon = small_daemon

    def images() -> set[str]:
        return {image.id for image in daemon.client.images.list(all=True)}

    before = images()
    text = "FROM busybox\nRUN echo first\nRUN dd if=/dev/urandom of=/big bs=1M count=40\n"
    done = sampan(daemon, "build", folder(tmp_path / "run", Dockerfile=text))
    assert done.returncode == 1
    assert "no space left" in (done.stdout + done.stderr).lower()
    place = folder(tmp_path / "copy", Dockerfile="FROM busybox\nCOPY big /\n")
    (tmp_path / "copy" / "big").write_bytes(os.urandom(40 << 20))
    done = sampan(daemon, "build", place)
    assert done.returncode == 1
    assert "no space left" in done.stderr.lower()
    # Fits as a context, not once more as a file of the image.
    (tmp_path / "copy" / "big").write_bytes(os.urandom(10 << 20))
    done = sampan(daemon, "build", place)
    assert done.returncode == 1
    assert "no space left" in done.stderr.lower()
    assert images() == before
    assert until(lambda: nothing_left(daemon))
    said = ok(
        daemon, "build", folder(tmp_path / "run", Dockerfile="FROM busybox\nRUN echo first\n")
    )
    assert "Using cache" in said


class Vanishing(ThreadingHTTPServer):
    """A registry that goes away in the middle of the first upload."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Vanishing)


class _Vanishing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.path == "/v2/"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"{}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.send_response(202)
        self.send_header("Location", f"{self.path.partition('?')[0]}x")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PATCH(self) -> None:
        self.rfile.read(1000)
        self.close_connection = True
        threading.Thread(target=self.server.shutdown).start()

    do_PUT = do_PATCH

    def log_message(self, *_: object) -> None: ...


def test_a_registry_that_goes_away_in_a_push(daemon: Daemon, tmp_path: Path) -> None:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    place = folder(tmp_path / "context", Dockerfile="FROM busybox\nRUN date +%N > /when\n")
    server = Vanishing()
    gone = threading.Thread(target=lambda: (server.serve_forever(0.05), server.server_close()))
    gone.start()
    name = f"127.0.0.1:{server.server_port}/app:1"
    done = sampan(daemon, "build", "--push", "-t", name, place)
    gone.join(20)
    assert done.returncode == 1
    assert f"127.0.0.1:{server.server_port}" in done.stderr, done.stderr
    identifier = ok(daemon, "image", "inspect", "-f", "{{.ID}}", name).strip()
    with docker_registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/app:1"
        said = ok(daemon, "build", "--push", "-t", name, place)
        assert "Using cache" in said
        assert ok(daemon, "image", "inspect", "-f", "{{.ID}}", name).strip() == identifier
        ok(daemon, "rmi", name)
        ok(daemon, "pull", "-q", name)
        assert ok(daemon, "image", "inspect", "-f", "{{.ID}}", name).strip() == identifier


def test_a_build_goes_on_where_a_killed_daemon_stopped(own_daemon: Daemon, tmp_path: Path) -> None:
    text = (
        "FROM busybox AS one\nRUN echo one > /one\n"
        "FROM busybox AS two\nCOPY --from=one /one /\nRUN cat /proc/sys/kernel/random/uuid > /id\n"
        "FROM two\nRUN test -e /go || sleep 987655\n"
    )
    place = folder(tmp_path / "context", Dockerfile=text)
    client = begun(own_daemon, "build", place)
    until(lambda: sleeping(987655))
    own_daemon.stop(signal.SIGKILL)
    client.communicate(timeout=20)
    assert client.returncode not in (0, 130)
    own_daemon.start()
    until(lambda: not sleeping(987655))
    said = ok(own_daemon, "build", "--target", "two", place)
    assert said.count("Using cache") == 3
