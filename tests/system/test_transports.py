"""The client over TLS with certificates on both sides, and over ssh."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon
from test_sampan_cli import SAMPAN, environment

import sampan
from sampan.errors import Unavailable

_SUBJECTS = {"ca": "CA:TRUE", "server": "CA:FALSE", "client": "CA:FALSE"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server and a client, under the names that Docker's clients look for."""
    place = tmp_path_factory.mktemp("tls")
    for who, basic in _SUBJECTS.items():
        signer = [] if who == "ca" else ["-CA", place / "ca.pem", "-CAkey", place / "ca-key.pem"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1"] if who == "server" else []
        files = {"ca": ("ca-key", "ca"), "server": ("server-key", "server")}
        key, certificate = files.get(who, ("key", "cert"))
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={who}"]
        command += ["-addext", f"basicConstraints=critical,{basic}", *names, *map(str, signer)]
        command += ["-keyout", str(place / f"{key}.pem"), "-out", str(place / f"{certificate}.pem")]
        subprocess.run(command, check=True, capture_output=True)
    return place


@pytest.fixture
def tls_address(daemon: Daemon, certificates: Path) -> Iterator[str]:
    """A TLS server that wants a client's certificate and carries all to the daemon's socket."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(plain,), daemon=True).start()

    def carry(plain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            with context.wrap_socket(plain, server_side=True) as near:
                with socket.socket(socket.AF_UNIX) as far:
                    far.connect(str(daemon.run / "sampan.sock"))
                    both_ways(near, far)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def both_ways(near: ssl.SSLSocket, far: socket.socket) -> None:
    """Until the daemon ends the connection; the client's end of input is passed on."""
    near.setblocking(False)
    far.setblocking(False)
    to_near, to_far = bytearray(), bytearray()
    near_open = far_open = True
    while far_open or to_near:
        reads = [near] if near_open else []
        waits = near_open and near.pending()
        select.select(
            [*reads, *([far] if far_open else [])],
            [*([near] if to_near else []), *([far] if to_far else [])],
            [],
            0 if waits else None,
        )
        with contextlib.suppress(ssl.SSLWantReadError):
            while near_open and (data := near.recv(65536)):
                to_far += data
            if near_open:
                near_open = False
        with contextlib.suppress(BlockingIOError):
            while far_open and (data := far.recv(65536)):
                to_near += data
            far_open = False
        with contextlib.suppress(ssl.SSLWantWriteError):
            while to_near:
                del to_near[: near.send(to_near[:16384])]
        with contextlib.suppress(BlockingIOError):
            while to_far:
                del to_far[: far.send(to_far)]
            if not near_open:
                far.shutdown(socket.SHUT_WR)


def run(
    daemon: Daemon, variables: dict[str, str], *words: str, input: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    kept = environment(daemon)
    del kept["SAMPAN_RUN_DIR"]
    return subprocess.run(
        [*SAMPAN, *words], input=input, capture_output=True, timeout=60, env={**kept, **variables}
    )


def test_tls_by_environment_and_by_flags(
    daemon: Daemon, tls_address: str, certificates: Path
) -> None:
    variables = {
        "DOCKER_HOST": tls_address,
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates),
    }
    data = os.urandom(2 << 20)
    done = run(daemon, variables, "run", "-i", "--rm", "busybox", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr
    script = "cat; echo err >&2; exit 7"
    done = run(daemon, variables, "run", "-i", "--rm", "busybox", "sh", "-c", script, input=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"err\n")
    done = run(daemon, variables, "build", "-q", "-", input=b"FROM busybox\nRUN true\n")
    assert done.stdout.startswith(b"sha256:"), done.stderr
    flags = ["-H", tls_address, "--tlsverify"]
    for flag, name in (("tlscacert", "ca"), ("tlscert", "cert"), ("tlskey", "key")):
        flags += [f"--{flag}", str(certificates / f"{name}.pem")]
    assert run(daemon, {}, *flags, "version", "-f", "{{.Server.Os}}").stdout == b"linux\n"


def test_tls_in_a_context(daemon: Daemon, tls_address: str, certificates: Path) -> None:
    files = ",".join(
        f"{key}={certificates}/{name}.pem"
        for key, name in (("ca", "ca"), ("cert", "cert"), ("key", "key"))
    )
    done = run(daemon, {}, "context", "create", "far", "--docker", f"host={tls_address},{files}")
    assert done.returncode == 0, done.stderr
    done = run(daemon, {}, "-c", "far", "run", "--rm", "busybox", "echo", "there")
    assert done.stdout == b"there\n", done.stderr
    assert run(daemon, {}, "context", "rm", "far").returncode == 0


def test_tls_with_a_stranger(daemon: Daemon, tls_address: str, certificates: Path) -> None:
    done = run(daemon, {}, "-H", tls_address, "--tlsverify", "ps")
    assert done.returncode == 1
    assert b"CERTIFICATE_VERIFY_FAILED" in done.stderr and done.stderr.count(b"\n") == 1
    authority = ["--tlsverify", "--tlscacert", str(certificates / "ca.pem")]
    done = run(daemon, {}, "-H", tls_address, *authority, "ps")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1, done.stderr


async def test_tls_on_an_event_loop(
    tls_address: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAMPAN_HOST", raising=False)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    async with await sampan.connect_async(tls_address) as client:
        assert await client.containers.run("busybox", ["echo", "hi"]) == b"hi\n"
        container = await client.containers.start("busybox", ["sleep", "1000"])
        assert (await container.execute("echo a; exit 3")).exit_code == 3
        await container.remove(force=True)
    monkeypatch.setenv("DOCKER_CERT_PATH", "/nonexistent")
    with pytest.raises(Unavailable):
        await sampan.connect_async(tls_address)


@pytest.fixture
def ssh(tmp_path: Path) -> dict[str, str]:
    """A program ``ssh`` that runs the command here and writes down what it was asked."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "ssh").write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        'while [ "$1" != -- ]; do shift; done\n'
        '[ "$2" != nosuch ] || { echo "ssh: unknown host nosuch" >&2; exit 255; }\n'
        'shift 2\nexec sh -c "$*"\n'
    )
    (place / "sampan").write_text(f'#!/bin/sh\nexec {sys.executable} -P -c "{SAMPAN[-1]}" "$@"\n')
    for program in place.iterdir():
        program.chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}"}


def test_ssh(daemon: Daemon, ssh: dict[str, str], tmp_path: Path) -> None:
    variables = {**ssh, "DOCKER_HOST": f"ssh://me@far:2222{daemon.run}/sampan.sock"}
    data = os.urandom(1 << 20)
    done = run(daemon, variables, "run", "-i", "--rm", "busybox", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()[0]
    assert asked == (
        "-o ConnectTimeout=30 -l me -p 2222 -- far "
        f"sampan --host unix://{daemon.run}/sampan.sock system dial-stdio"
    )
    done = run(daemon, {**ssh, "DOCKER_HOST": "ssh://nosuch"}, "ps")
    assert done.returncode == 1 and b"unknown host nosuch" in done.stderr, done.stderr


async def test_ssh_on_an_event_loop(
    daemon: Daemon, ssh: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", ssh["PATH"])
    async with await sampan.connect_async(f"ssh://far{daemon.run}/sampan.sock") as client:
        assert await client.containers.run("busybox", ["echo", "far"]) == b"far\n"
