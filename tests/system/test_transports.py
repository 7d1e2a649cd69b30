"""Ways to the daemon other than its unix socket, and clients that mean it badly."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from docker.tls import TLSConfig
from harness import Daemon, running, until

from tests.registry.servers import free_port

REPOSITORY = Path(__file__).parents[2]
Recorder = Callable[[str, object], None]


def _openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a certificate for the daemon and one for a client."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *new, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2",
             "-subj", "/CN=authority", cwd=folder)  # fmt: skip
    (folder / "server.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for name, key, certificate in (("server", "server-key.pem", "server.pem"),
                                   ("client", "key.pem", "cert.pem")):  # fmt: skip
        _openssl("req", *new, "-keyout", key, "-out", "request", "-subj", f"/CN={name}", cwd=folder)
        _openssl("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
                 "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", certificate,
                 cwd=folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tls_daemon(certificates: Path) -> Iterator[tuple[Daemon, str]]:
    """A daemon that also listens on TCP, with mutual TLS; and the address."""
    port = free_port()
    flags = ["--tlsverify", "--tlscacert", str(certificates / "ca.pem")]
    flags += ["--tlscert", str(certificates / "server.pem")]
    flags += ["--tlskey", str(certificates / "server-key.pem")]
    address = f"tcp://127.0.0.1:{port}"
    for daemon in running(*flags, "--host", address, "--host", "unix://{run}/sampan.sock"):
        yield daemon, address


def _known_client(
    address: str, certificates: Path, monkeypatch: pytest.MonkeyPatch, timeout: int
) -> docker.DockerClient:
    """A client with a certificate that the daemon accepts."""
    # They would come before what the client is told.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    tls = TLSConfig(
        client_cert=(str(certificates / "cert.pem"), str(certificates / "key.pem")),
        ca_cert=str(certificates / "ca.pem"),
        verify=True,
    )
    return docker.DockerClient(base_url=address, tls=tls, timeout=timeout)


@pytest.mark.proves("tcp with mutual TLS")
def test_mutual_tls(
    tls_daemon: tuple[Daemon, str], certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = tls_daemon
    client = _known_client(address, certificates, monkeypatch, timeout=20)
    assert client.containers.run("busybox", ["echo", "safe"], remove=True) == b"safe\n"
    stranger = TLSConfig(ca_cert=str(certificates / "ca.pem"), verify=True)
    with pytest.raises(Exception, match=r"(?i)ssl|tls|connection"):
        docker.DockerClient(base_url=address, tls=stranger, timeout=20).ping()
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 10) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" not in plain.recv(1000)


@pytest.mark.proves("attach, exec and terminals over TLS")
@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI")
def test_streams_over_tls(tls_daemon: tuple[Daemon, str], certificates: Path) -> None:
    _, address = tls_daemon
    command = ["docker", "-H", address, "--tlsverify"]
    for name, file in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
        command += [f"--{name}", str(certificates / file)]
    data = os.urandom(3 << 20)
    done = subprocess.run(
        [*command, "run", "--rm", "-i", "busybox", "cat"],
        input=data, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")
    subprocess.run([*command, "run", "-d", "--name", "box", "busybox", "sleep", "999"], check=True)
    done = subprocess.run(
        [*command, "exec", "-i", "box", "sh", "-c", "cat; exit 5"],
        input=data, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout == data) == (5, True)
    # A client that is killed leaves nothing behind.
    follower = subprocess.Popen([*command, "attach", "--no-stdin", "box"])
    until(lambda: follower.poll() is None)
    follower.kill()
    follower.wait()
    done = subprocess.run([*command, "exec", "box", "echo", "on"], capture_output=True, timeout=60)
    assert done.stdout == b"on\n"


def test_docker_py_loses_no_output_over_tls(
    tls_daemon: tuple[Daemon, str], certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = tls_daemon
    _hear_all(_known_client(address, certificates, monkeypatch, timeout=60))


def test_docker_py_loses_no_output_over_tcp() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    for daemon in running("--host", address, "--host", "unix://{run}/sampan.sock"):
        with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
            _hear_all(client)
        daemon.remove_containers()


def _hear_all(client: docker.DockerClient) -> None:
    """What execs say at once arrives, however busy the client is."""
    box = client.containers.run("busybox", ["sleep", "1000"], detach=True)
    over = threading.Event()

    def be_busy() -> None:
        while not over.is_set():
            pass

    busy = threading.Thread(target=be_busy)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.05)
    busy.start()
    try:
        for number in range(5):
            assert box.exec_run(["echo", str(number)]).output == f"{number}\n".encode()
    finally:
        over.set()
        busy.join()
        sys.setswitchinterval(interval)
        box.remove(force=True)


def test_web_pages_cannot_use_tcp() -> None:
    """A browser on this machine sends a page's requests to loopback as well: by the page's own
    origin, or by a name of the attacker's that leads there."""
    port = free_port()
    own = ["--host", f"tcp://127.0.0.1:{port}", "--host", "unix://{run}/sampan.sock"]
    for _ in running(*own):

        def status(**headers: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("POST", "/volumes/prune", headers=headers)
            return connection.getresponse().status

        assert status() == status(Host=f"localhost:{port}") == status(Host="engine:2375") == 200
        assert status(Origin="https://attacker.example") == status(Origin="null") == 403
        assert status(Host=f"attacker.example:{port}") == status(Host="attacker.example.") == 403
        assert status(Host=f"[::1]:{port}") == status(Host="127.0.0.1") == 200


@pytest.mark.parametrize("flags", [["--tls"], ["--tlsverify"], ["--tlscert", "/x"], []])
def test_tcp_beyond_loopback_is_refused(tmp_path: Path, flags: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sampan.daemon", "--state-dir", str(tmp_path / "s"), "--run-dir",
         str(tmp_path / "r"), "-H", "tcp://0.0.0.0:0", *flags],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"TLS" in done.stderr or b"tls" in done.stderr


@pytest.mark.proves("ssh:// by system dial-stdio")
@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI")
def test_ssh(daemon: Daemon, tmp_path: Path) -> None:
    """The docker CLI over ssh, whose other end runs ``docker system dial-stdio`` of ours."""
    programs = tmp_path / "bin"
    programs.mkdir()
    run = f"exec {sys.executable} {REPOSITORY}/scripts/sampan -H {daemon.url}"
    # Options and the host, then the command for the other end, which may be one argument.
    (programs / "ssh").write_text(
        f'#!/bin/sh\nwhile [ "$1" != docker ]; do shift; done\nshift\n'
        f'[ "$1" = -H ] && shift 2\ncd / && PYTHONPATH={REPOSITORY} {run} "$@"\n'
    )
    (programs / "ssh").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["docker", "-H", "ssh://someone@elsewhere", "run", "--rm", "-i", "busybox", "cat"],
        env=environment, input=b"over ssh\n", capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == b"over ssh\n", done.stderr


class Activated(Daemon):
    """A daemon started as systemd does it: with listening sockets, and told where to say "ready"."""

    listeners = 2

    def start(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        sockets = []
        for number in range(self.listeners):
            sock = socket.socket(socket.AF_UNIX)
            place = self.run / ("sampan.sock" if number == 0 else f"other{number}.sock")
            place.unlink(missing_ok=True)
            sock.bind(str(place))
            sock.listen(16)
            sockets.append(sock)
        # A client that comes before the daemon waits for it.
        early = connect(self)
        early.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        place = self.root / "notify"
        place.unlink(missing_ok=True)
        notify.bind(str(place) if self.flags else f"\0sampan-{self.root.name}")
        name = notify.getsockname()
        address = f"@{name[1:].decode()}" if isinstance(name, bytes) else name
        moves = "".join(f"exec {3 + n}<&{sock.fileno()}; " for n, sock in enumerate(sockets))
        self.process = subprocess.Popen(
            ["bash", "-c", f'{moves} LISTEN_PID=$$ exec "$@"', "bash", *self.command()],
            pass_fds=[sock.fileno() for sock in sockets],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "NOTIFY_SOCKET": address,
                 "LISTEN_FDS": str(len(sockets))},
        )  # fmt: skip
        notify.settimeout(30)
        assert notify.recv(100) == b"READY=1"
        notify.close()
        assert early.recv(1000).startswith(b"HTTP/1.1 200 OK")
        early.close()
        for sock in sockets:
            sock.close()


@pytest.mark.proves("sockets from systemd, and its notification")
@pytest.mark.parametrize("flags", [[], ["--host", "fd://"]], ids=["by itself", "fd://"])
def test_sockets_from_systemd(flags: list[str]) -> None:
    for daemon in running(*flags, kind=Activated):
        assert daemon.client.ping()
        other = docker.DockerClient(base_url=f"unix://{daemon.run}/other1.sock", timeout=20)
        output = other.containers.run("busybox", ["sh", "-c", "ls /proc/self/fd"], remove=True)
        # None of the sockets is a container's to keep.
        assert output.split() == [b"0", b"1", b"2", b"3"]
        # They belong to systemd, which passes them to the next daemon: they are not removed.
        daemon.client.close()
        daemon.stop()
        assert (daemon.run / "sampan.sock").exists() and (daemon.run / "other1.sock").exists()
        daemon.start()
        assert daemon.client.ping()


def connect(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(daemon.run / "sampan.sock"))
    return sock


def ping_seconds(daemon: Daemon) -> float:
    """How long a ping takes now, connection included."""
    begin = time.monotonic()
    with connect(daemon) as sock:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
    return time.monotonic() - begin


def resident(daemon: Daemon) -> int:
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def test_slow_loris(daemon: Daemon) -> None:
    """Clients that never finish their heads hold nobody up."""
    slow = [connect(daemon) for _ in range(200)]
    for sock in slow:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    try:
        for _ in range(5):
            for sock in slow:
                sock.sendall(b"y")
            assert ping_seconds(daemon) < 0.5
    finally:
        for sock in slow:
            sock.close()


def test_ten_thousand_headers(daemon: Daemon) -> None:
    before = resident(daemon)
    with connect(daemon) as sock:
        head = b"GET /_ping HTTP/1.1\r\nHost: x\r\n"
        try:
            sock.sendall(head + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n")
            answer = sock.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert b" 500 " not in answer.split(b"\r\n")[0]
    with connect(daemon) as sock:
        try:
            sock.sendall(b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n")
            answer = sock.recv(4096)
            assert answer.split()[1] == b"400" and answer.endswith(b'is too large"}\n')
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert ping_seconds(daemon) < 0.5
    assert resident(daemon) - before < 64 << 20


@pytest.mark.parametrize("path", ["/containers/create", "/networks/create", "/auth"])
def test_huge_body(daemon: Daemon, path: str) -> None:
    before = resident(daemon)
    with connect(daemon) as sock:
        sock.sendall(
            b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n" % path.encode()
        )
        answer = b""
        piece = b" " * (1 << 20)
        try:
            for _ in range(300):
                if select.select([sock], [], [], 0)[0]:
                    break
                sock.sendall(piece)
            answer = sock.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert answer == b"" or answer.split()[1] in (b"400", b"413")
    assert ping_seconds(daemon) < 0.5
    assert resident(daemon) - before < 256 << 20


def whole(sock: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    answer = b""
    while data := sock.recv(65536):
        answer += data
    return answer


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
        b'POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{"Name": "half"}',
        b"GET /events?since=1&until=2 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["ping", "info", "pipelined", "body", "stream"],
)
def test_half_closed_clients_are_answered(daemon: Daemon, request_head: bytes) -> None:
    """As Docker's engine does: the client that has sent its request may end its direction."""
    with connect(daemon) as sock:
        sock.sendall(request_head)
        sock.shutdown(socket.SHUT_WR)
        answer = whole(sock)
    assert answer.count(b"HTTP/1.1 20") == request_head.count(b"HTTP/1.1"), answer
    if b"volumes" in request_head:
        daemon.client.volumes.get("half").remove()


def test_half_closed_client_with_half_a_request_is_let_go(daemon: Daemon) -> None:
    for head in (b"GET /_ping HTTP/1.1\r\nHo", b"POST /auth HTTP/1.1\r\nHost: x\r\n"
                 b"Content-Length: 100\r\n\r\n{"):  # fmt: skip
        with connect(daemon) as sock:
            sock.sendall(head)
            sock.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 20" not in whole(sock)


def test_half_closed_follower_is_served_until_it_goes(daemon: Daemon) -> None:
    with connect(daemon) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
        listeners = daemon.client.api.info()["NEventsListener"]
        assert listeners >= 1
        daemon.client.volumes.create("half-seen").remove()
        assert b"half-seen" in sock.recv(4096)
    until(lambda: daemon.client.api.info()["NEventsListener"] < listeners)


def test_five_hundred_followers_of_events(daemon: Daemon) -> None:
    """Each gets the event within milliseconds, and others are served meanwhile."""
    followers = [connect(daemon) for _ in range(500)]
    try:
        for sock in followers:
            sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        for sock in followers:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
        listeners = daemon.client.api.info()["NEventsListener"]
        assert listeners >= 500
        daemon.client.volumes.create("seen-by-all")
        begin = time.monotonic()
        for sock in followers:
            seen = sock.recv(4096)
            event = json.loads(seen[seen.index(b"{") : seen.rindex(b"}") + 1])
            assert event["Actor"]["ID"] == "seen-by-all"
        assert time.monotonic() - begin < 1
        assert ping_seconds(daemon) < 0.5
    finally:
        for sock in followers:
            sock.close()
        daemon.client.volumes.get("seen-by-all").remove()
    # They are noticed to have gone, and cleaned up.
    until(lambda: daemon.client.api.info()["NEventsListener"] < 10)


def test_five_hundred_followers_of_logs(daemon: Daemon, record_property: Recorder) -> None:
    """Each gets what the container writes, and others are served meanwhile."""
    client = daemon.client
    talker = client.containers.create("busybox", ["sh", "-c", "while read x; do echo $x; done"],
                                      stdin_open=True)  # fmt: skip
    talker.start()
    path = f"/containers/{talker.id}/logs?follow=1&stdout=1"
    followers = [connect(daemon) for _ in range(500)]
    try:
        for sock in followers:
            sock.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        for sock in followers:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK")
        waiting = [ping_seconds(daemon) for _ in range(10)]
        control = talker.attach_socket(params={"stdin": 1, "stream": 1})
        begin = time.monotonic()
        control._sock.sendall(b"said to all\n")
        pings = [ping_seconds(daemon) for _ in range(10)]
        for sock in followers:
            seen = b""
            while b"said to all\n" not in seen:
                seen += sock.recv(4096)
        took = time.monotonic() - begin
        control.close()
    finally:
        for sock in followers:
            sock.close()
    record_property("milliseconds to the last of 500 followers", took * 1000)
    record_property("milliseconds of a ping meanwhile, at most", max(pings) * 1000)
    assert took < 5
    assert max(waiting + pings) < 1
    before = resident(daemon)
    until(lambda: ping_seconds(daemon) < 0.05)
    assert resident(daemon) - before < 64 << 20
