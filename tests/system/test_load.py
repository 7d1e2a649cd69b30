"""Eight clients work as continuous integration does, all at once: no failure, nothing left behind,
a neighbour served meanwhile, and the daemon's memory flat."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import docker
import pytest
from debian import REPOSITORY
from harness import Daemon, until
from test_transports import ping_seconds, resident

SECONDS = float(os.environ.get("SAMPAN_TEST_LOAD_SECONDS", "20"))
WARM_UP = 0.4
"""The part of the time after which memory should not grow any more."""
DOCKERFILE = "FROM busybox\nARG JOB\nCOPY page /page\nRUN echo $JOB > /job && cat /page >> /job\n"
SERVER = "cat /job; echo ready; while :; do echo pong | nc -l -p 80; done"
ASK = "until echo | nc -w 2 server 80 | grep pong; do sleep 0.1; done"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(int(SECONDS * 3) + 120),
    pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI"),
]


class Client(Protocol):
    """One job's steps; each raises when its answer is not what it has to be."""

    def job(self, name: str) -> None: ...


class CommandLine:
    """The job by a command line, docker's or ours."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self._command = command
        self._environment = environment
        self._folder = folder

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, name: str) -> None:
        call = self._call
        image = f"{name}:built"
        call("network", "create", name)
        call("volume", "create", name)
        call("build", "-q", "-t", image, "--build-arg", f"JOB={name}", str(self._folder))
        run = ["--name", f"{name}-server", "--network", name, "--network-alias", "server"]
        call("run", "-d", *run, "-v", f"{name}:/data", image, "sh", "-c", SERVER)
        asked = call("run", "--rm", "--network", name, image, "sh", "-c", ASK)
        assert asked == "pong\n", asked
        assert call("exec", f"{name}-server", "cat", "/job") == f"{name}\npage\n"
        logs = call("logs", f"{name}-server")
        assert logs.startswith(f"{name}\npage\nready\n"), logs
        assert f"{name}-server" in call("ps", "--format", "{{.Names}}")
        call("cp", f"{name}-server:/job", str(self._folder / name))
        assert (self._folder / name).read_text() == f"{name}\npage\n"
        (self._folder / name).unlink()
        call("stop", "-t", "0", f"{name}-server")
        call("rm", f"{name}-server")
        call("rmi", image)
        call("volume", "rm", name)
        call("network", "rm", name)


class Library:
    """The job by docker-py."""

    def __init__(self, url: str) -> None:
        self._client = docker.DockerClient(base_url=url, timeout=90)

    def job(self, name: str) -> None:
        client = self._client
        network = client.networks.create(name)
        volume = client.volumes.create(name)
        image, _ = client.images.build(
            fileobj=_context(), custom_context=True, tag=f"{name}:built", buildargs={"JOB": name}
        )
        server = client.containers.run(
            image.id,
            ["sh", "-c", SERVER],
            name=f"{name}-server",
            network=name,
            networking_config={name: client.api.create_endpoint_config(aliases=["server"])},
            volumes={name: {"bind": "/data", "mode": "rw"}},
            detach=True,
        )
        asked = client.containers.run(image.id, ["sh", "-c", ASK], network=name, remove=True)
        assert asked == b"pong\n", asked
        code, output = server.exec_run(["cat", "/job"])
        assert (code, output) == (0, f"{name}\npage\n".encode())
        logs = server.logs()
        assert logs.startswith(f"{name}\npage\nready\n".encode()), logs
        assert f"{name}-server" in [
            each.name for each in client.containers.list(ignore_removed=True)
        ]
        chunks, _ = server.get_archive("/job")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            assert tar.getnames() == ["job"]
        server.stop(timeout=0)
        server.remove()
        client.images.remove(f"{name}:built")
        volume.remove()
        network.remove()


def _context() -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in (("Dockerfile", DOCKERFILE), ("page", "page\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


def _clients(daemon: Daemon, folder: Path) -> list[Client]:
    environment = {
        **os.environ,
        "DOCKER_HOST": daemon.url,
        "SAMPAN_HOST": daemon.url,
        "DOCKER_BUILDKIT": "0",
        "HOME": str(folder),
    }
    ours = [sys.executable, str(REPOSITORY / "scripts/sampan")]
    clients: list[Client] = [Library(daemon.url) for _ in range(3)]
    for number, command in enumerate([["docker"], ["docker"], ["docker"], ours, ours]):
        place = folder / f"client{number}"
        place.mkdir()
        (place / "Dockerfile").write_text(DOCKERFILE)
        (place / "page").write_text("page\n")
        (place / ".dockerignore").write_text("job*\n")
        clients.append(CommandLine(command, environment, place))
    return clients


def test_clients_of_all_kinds(
    own_daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = own_daemon
    begin = time.monotonic()
    over = threading.Event()
    jobs: list[float] = []
    failures: list[str] = []

    def work(number: int, client: Client) -> None:
        count = 0
        while time.monotonic() < begin + SECONDS and not failures:
            started = time.monotonic()
            try:
                client.job(f"job{number}-{count}")
            except Exception as error:
                failures.append(f"{type(client).__name__}: {type(error).__name__}: {error}")
            jobs.append(time.monotonic() - started)
            count += 1

    pings: list[float] = []
    memory: list[tuple[float, int]] = []

    def watch() -> None:
        while not over.wait(0.05):
            pings.append(ping_seconds(daemon))
            memory.append((time.monotonic() - begin, resident(daemon)))

    _together([lambda n=n, c=c: work(n, c) for n, c in enumerate(_clients(daemon, tmp_path))],
              watch, over)  # fmt: skip
    assert not failures, failures[0]
    pings.sort()
    warm = max(size for at, size in memory if at < SECONDS * WARM_UP)
    grown = max(size for at, size in memory) - warm
    late = pings[int(len(pings) * 0.99)]
    with capsys.disabled():
        print(
            f"\n{len(jobs)} jobs by 8 clients in {time.monotonic() - begin:.0f} s; ping median "
            f"{pings[len(pings) // 2] * 1000:.1f} ms, 99 % {late * 1000:.0f} ms, longest "
            f"{pings[-1] * 1000:.0f} ms; daemon {memory[-1][1] >> 20} MB, "
            f"{grown / (1 << 20):+.1f} MB after {WARM_UP:.0%} of the time"
        )
    assert len(jobs) >= 8
    assert late < 3 and pings[-1] < 10
    assert grown < 16 << 20
    _nothing_left(daemon)


def _together(works: list[Callable[[], None]], watch: Callable[[], None],
              over: threading.Event) -> None:  # fmt: skip
    threads = [threading.Thread(target=work) for work in works]
    watcher = threading.Thread(target=watch)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    watcher.join()


def _nothing_left(daemon: Daemon) -> None:
    client = daemon.client
    until(lambda: client.containers.list(all=True) == [])
    assert sorted(network.name for network in client.networks.list()) == ["bridge", "host", "none"]
    assert client.volumes.list() == []
    assert [image.tags for image in client.images.list()] == [["busybox:latest"]]
    client.api.prune_builds()
    until(lambda: client.api.info()["NEventsListener"] == 0)
