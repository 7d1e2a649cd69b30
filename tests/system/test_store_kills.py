"""The daemon is killed at random instants of whatever changes the store; ``system check`` then
finds nothing wrong.  SAMPAN_TEST_KILLS says how often (default 12)."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from harness import Daemon, running
from urllib3.exceptions import HTTPError

from tests.registry.servers import Registry, docker_registry

KILLS = int(os.environ.get("SAMPAN_TEST_KILLS", "12"))
LAYERS = 3


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path / "registry") as server:
        yield server


def files(seed: int, count: int = 40, size: int = 50_000) -> bytes:
    """A tar of files that do not compress."""
    chance, stream = random.Random(seed), io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(count):
            info = tarfile.TarInfo(f"d{seed}/f{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(chance.randbytes(size)))
    return stream.getvalue()


def context(seed: int) -> io.BytesIO:
    """A build context whose steps copy, run and remove."""
    stream = io.BytesIO(files(seed))
    with tarfile.open(fileobj=stream, mode="a") as tar:
        text = (
            f"FROM busybox\nCOPY d{seed} /d\nRUN rm /d/f1 && echo {seed} > /new\n"
            f"COPY d{seed}/f2 /d/f1\n"
        ).encode()
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    stream.seek(0)
    return stream


class Work:
    """What is interrupted.  Each method prepares, and returns what then runs until the kill."""

    def __init__(self, daemon: Daemon, registry: Registry) -> None:
        self.daemon = daemon
        self.name = f"{registry.host}/app"
        self.seed = 0
        self.archive = b""

    @property
    def api(self) -> Any:
        return self.daemon.client.api

    def set_up(self) -> None:
        """An image of several layers in the registry and in an archive."""
        self.build()()
        self.daemon.client.images.get("built").tag(self.name, "1")
        for _ in self.api.push(self.name, "1", stream=True):
            pass
        self.archive = b"".join(self.api.get_image("built"))

    def build(self) -> Callable[[], object]:
        self.seed += 1
        stream = context(self.seed)
        return lambda: [*self.api.build(fileobj=stream, custom_context=True, tag="built", rm=True)]

    def pull(self) -> Callable[[], object]:
        self._forget()
        return lambda: [*self.api.pull(self.name, "1", stream=True)]

    def load(self) -> Callable[[], object]:
        self._forget()
        return lambda: [*self.api.load_image(self.archive)]

    def commit(self) -> Callable[[], object]:
        self.seed += 1
        container = self.api.create_container("busybox", ["true"])["Id"]
        self.api.put_archive(container, "/", files(self.seed))
        return lambda: self.api.commit(container, "committed", str(self.seed % 3))

    def rmi(self) -> Callable[[], object]:
        [*self.api.load_image(self.archive)]
        self.daemon.client.images.get("built").tag("other", "1")
        return lambda: (self.api.remove_image("other:1"), self._forget())

    def prune(self) -> Callable[[], object]:
        self.commit()()
        self.build()()

        def run() -> None:
            self.api.prune_containers()
            self.api.prune_images({"dangling": False})
            self.api.prune_builds()

        return run

    def _forget(self) -> None:
        for name in ("built", f"{self.name}:1"):
            try:
                self.api.remove_image(name, force=True)
            except docker.errors.APIError as error:
                assert error.status_code == 404, error
        self.api.prune_builds()


def interrupted(daemon: Daemon, work: Callable[[], object], seconds: float) -> None:
    """Kill the daemon ``seconds`` into the work."""

    def run() -> None:
        try:
            work()
        except (docker.errors.DockerException, requests.RequestException, HTTPError, OSError):
            pass  # what the client sees of a daemon that is killed

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(seconds)  # The instant is the point of this test.
    daemon.stop(signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive()


def problems(daemon: Daemon) -> list[dict[str, Any]]:
    answer = daemon.client.api._get(daemon.client.api.base_url + "/sampan/check")
    assert answer.ok, answer.text
    found: list[dict[str, Any]] = answer.json()["Problems"]
    return found


def test_killed_at_any_instant(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(4)
    for daemon in running():
        work = Work(daemon, registry)
        work.set_up()
        kinds = (work.pull, work.build, work.commit, work.load, work.rmi, work.prune)
        lengths = {}
        for kind in kinds:
            act = kind()
            began = time.monotonic()
            act()
            lengths[kind.__name__] = time.monotonic() - began
            daemon.load_busybox()
        done: dict[str, int] = {}
        for number in range(KILLS):
            kind = kinds[number % len(kinds)]
            instant = chance.uniform(0, 1.1 * lengths[kind.__name__])
            interrupted(daemon, kind(), instant)
            done[kind.__name__] = done.get(kind.__name__, 0) + 1
            daemon._client = None
            daemon.start()
            assert problems(daemon) == [], f"after a kill {instant:.3f} s into {kind.__name__}"
            daemon.load_busybox()
            if number % 10 == 9:
                work.pull()()
                assert daemon.client.images.get(f"{work.name}:1")
        with capsys.disabled():
            each = ", ".join(f"{name} {count}" for name, count in done.items())
            print(f"\n{KILLS} kills of the daemon ({each}): every check was clean")
        work._forget()
        daemon.client.containers.prune()
