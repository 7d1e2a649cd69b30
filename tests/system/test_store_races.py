"""Pulls, loads, builds, runs, removals and collections at the same time: nothing that one of them
relies on is taken from it, and the store is sound afterwards."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from harness import Daemon
from test_store_kills import context, problems

from tests.registry.servers import Registry, docker_registry

SECONDS = 6.0
# What a racing removal may rightly cause: the name is gone, or in use.
_EXPECTED = (404, 409)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path / "registry") as server:
        yield server


def test_changes_of_all_kinds_at_once(
    own_daemon: Daemon, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon, name = own_daemon, f"{registry.host}/app"
    api = daemon.client.api
    lines = list(api.build(fileobj=context(1), custom_context=True, tag=name + ":1", rm=True))
    assert b"Successfully tagged" in b"".join(lines), lines[-1]
    list(api.push(name, "1", stream=True))
    archive = b"".join(api.get_image(name + ":1"))
    done: Counter[str] = Counter()
    failed: list[str] = []
    end = time.monotonic() + SECONDS

    def pull(api: Any) -> None:
        for line in api.pull(name, "1", stream=True, decode=True):
            assert "error" not in line, line

    def load(api: Any) -> None:
        for line in api.load_image(archive):
            assert "error" not in line, line

    def build(api: Any) -> None:
        stream = context(done["build"] % 3)
        lines = api.build(
            fileobj=stream, custom_context=True, tag="built", rm=True, decode=True, nocache=True
        )
        for line in lines:
            # Its base is the one thing that the removals may take.
            assert "error" not in line or "busybox" in line["error"], line

    def run(api: Any) -> None:
        container = api.create_container(name + ":1", ["/bin/busybox", "cat", "/new"])["Id"]
        try:
            api.start(container)
            assert api.wait(container)["StatusCode"] == 0
        finally:
            api.remove_container(container, force=True)

    def remove(api: Any) -> None:
        for image in ("built", name + ":1"):
            try:
                api.remove_image(image, force=True)
            except docker.errors.APIError as error:
                if error.status_code not in _EXPECTED:
                    raise

    def prune(api: Any) -> None:
        api.prune_images({"dangling": True})
        api.prune_builds()

    def worker(work: Callable[[Any], None]) -> None:
        own = docker.DockerClient(base_url=daemon.url, timeout=60).api
        while time.monotonic() < end:
            try:
                work(own)
                done[work.__name__] += 1
            except docker.errors.APIError as error:
                if error.status_code not in _EXPECTED:
                    failed.append(f"{work.__name__}: {error}")
            except AssertionError as error:
                failed.append(f"{work.__name__}: {error}")
        own.close()

    kinds = (pull, load, build, run, remove, prune)
    threads = [threading.Thread(target=worker, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert problems(daemon) == []
    assert all(done[kind.__name__] for kind in kinds), done
    pull(api)
    run(api)
    with capsys.disabled():
        print("\n" + ", ".join(f"{count} {kind}s" for kind, count in done.items()) + " at once")
