"""Timings of the Engine API itself, over its socket."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from .engines import CommandFailed, Docker, Engine, Sampan
from .scenarios import IMAGE, Timed, scenario

MANY = 1000
PINGS = 5000


def socket_of(engine: Engine) -> Path:
    if isinstance(engine, Sampan):
        return engine.work / "run" / "sampan.sock"
    if isinstance(engine, Docker):
        return engine.work / "docker.sock"
    raise CommandFailed(f"{engine.name} serves no API here")


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def send_json(self, path: str, body: object = None, method: str = "POST") -> bytes:
        """Raises CommandFailed for any other answer than success."""
        text = None if body is None else json.dumps(body)
        self.request(method, path, text, {"Content-Type": "application/json"})
        answer = self.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise CommandFailed(f"{method} {path}: {answer.status}: {content.decode()}")
        return content

    def fetch(self, path: str) -> bytes:
        self.request("GET", path)
        return self.getresponse().read()


@scenario(f"GET /containers/json of {MANY} containers", target=25, group="api")
def list_many(engine: Engine) -> Iterator[Timed]:
    client = docker.DockerClient(base_url=f"unix://{socket_of(engine)}", timeout=300)
    host = client.api.create_host_config(network_mode="none")
    made = [client.api.create_container(IMAGE, host_config=host)["Id"] for _ in range(MANY)]
    connection = Connection(socket_of(engine))
    try:
        yield lambda: connection.fetch("/containers/json?all=1")
    finally:
        for id in made:
            client.api.remove_container(id)


@scenario(f"{PINGS} GET /_ping, one at a time", target=PINGS / 3, group="api", runs=3)
def ping(engine: Engine) -> Iterator[Timed]:
    """3,000 a second are a third of a millisecond each."""
    path = socket_of(engine)

    def many() -> None:
        request, answer = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n\r\nOK"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            for _ in range(PINGS):
                sock.sendall(request)
                seen = sock.recv(4096)
                while not seen.endswith(answer):
                    seen += sock.recv(4096)

    yield many


@scenario("docker-py: create and start", target=20, group="api", runs=20)
def create_and_start(engine: Engine) -> Iterator[Timed]:
    client = docker.DockerClient(base_url=f"unix://{socket_of(engine)}", timeout=60)
    made: list[str] = []

    def once() -> None:
        id = client.api.create_container(IMAGE, ["sleep", "1000"])["Id"]
        client.api.start(id)
        made.append(id)

    def remove() -> None:
        client.api.remove_container(made.pop(), force=True)

    once.after = remove  # type: ignore[attr-defined]
    yield once


@scenario("an event, to the last of 500 listeners", target=5, group="api", runs=20)
def event_latency(engine: Engine) -> Iterator[Timed]:
    """From the publishing client's request until the last listener has been written to."""
    path = socket_of(engine)
    client = docker.DockerClient(base_url=f"unix://{path}", timeout=60)
    listeners = []
    for _ in range(500):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(4096)
        listeners.append(sock)
    deadline = time.monotonic() + 20
    while client.api.info().get("NEventsListener", 500) < 500 and time.monotonic() < deadline:
        time.sleep(0.01)

    def once() -> None:
        client.api.create_volume("listened-to")
        for sock in listeners:
            sock.recv(4096)

    def remove() -> None:
        client.api.remove_volume("listened-to")
        for sock in listeners:
            sock.recv(4096)

    once.after = remove  # type: ignore[attr-defined]
    yield once
    for sock in listeners:
        sock.close()
