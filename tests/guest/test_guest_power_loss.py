"""The power of a virtual machine goes at random instants while a daemon in it pulls, loads,
commits, builds, tags and removes.  Its disk loses what was not flushed.  After the next boot
``system check`` finds nothing wrong, and what was acknowledged is there and runs.
SAMPAN_TEST_GUEST_LOSSES says how often (default 2); if it is set the overlay driver has its turns
too, on an older kernel."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from disks import VolatileDisk
from guest import HOST, Guest
from harness import busybox_tar
from test_store_kills import context, files
from urllib3.exceptions import HTTPError

from tests.registry.servers import Registry, docker_registry

LOSSES = int(os.environ.get("SAMPAN_TEST_GUEST_LOSSES", "2"))
DRIVERS = {"6.12": "erofs", "6.1": "overlay"}
"""What is chosen on a kernel."""
KERNELS = list(DRIVERS) if "SAMPAN_TEST_GUEST_LOSSES" in os.environ else ["6.12"]
STATE = "/disk/state"
REQUESTS = 800
"""About what the guest writes in one turn of all kinds of work."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[VolatileDisk]:
    found = VolatileDisk(tmp_path, 400)
    yield found
    found.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with docker_registry(tmp_path / "registry") as server:
        yield server


def publish(registry: Registry, name: str, layers: list[bytes]) -> None:
    """Put an image of these layer tars into the registry."""
    url = f"http://{registry.host}/v2/{name}"
    session = requests.Session()

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        place = session.post(f"{url}/blobs/uploads/").headers["Location"]
        session.put(place, params={"digest": digest}, data=data).raise_for_status()
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": digest, "size": len(data)}

    diffs = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]}}
    config["rootfs"] = {"type": "layers", "diff_ids": diffs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(gzip.compress(layer, 1), "layer.v1.tar+gzip") for layer in layers],
    }
    session.put(
        f"{url}/manifests/1",
        data=json.dumps(manifest),
        headers={"Content-Type": str(manifest["mediaType"])},
    ).raise_for_status()


class Worker(threading.Thread):
    """Changes the store until the power goes; ``kept`` are the images that were acknowledged,
    ``gone`` the names whose removal was."""

    def __init__(
        self, client: docker.DockerClient, pulled: str, off: threading.Event, turn: int
    ) -> None:
        super().__init__()
        self._api, self._pulled, self._off, self._turn = client.api, pulled, off, turn
        self.kept: dict[str, str] = {}
        self.gone: set[str] = set()
        self.under_way = ""

    def run(self) -> None:
        try:
            for step in range(1000):
                self._work(f"{self._turn}-{step}", 1000 * self._turn + step)
        except (docker.errors.DockerException, requests.RequestException, HTTPError, OSError):
            if not self._off.is_set():
                raise  # it is not what a client sees of a machine that is gone

    def _work(self, name: str, seed: int) -> None:
        api = self._api
        self.under_way = "import"
        api.import_image_from_data(files(seed, 6), repository=f"import-{name}")
        self._keep(f"import-{name}:latest")
        self.under_way = "pull"
        for line in api.pull(self._pulled, "1", stream=True, decode=True):
            assert "error" not in line, line
        api.tag(f"{self._pulled}:1", f"pulled-{name}")
        self._keep(f"pulled-{name}:latest")
        self._remove(f"{self._pulled}:1")
        self.gone.discard(f"{self._pulled}:1")  # the next pull brings it again
        self.under_way = "commit"
        container = api.create_container("busybox", ["true"])["Id"]
        api.put_archive(container, "/", files(seed, 3))
        api.commit(container, f"commit-{name}")
        self._keep(f"commit-{name}:latest")
        api.remove_container(container)
        self.under_way = "build"
        for line in api.build(
            fileobj=context(seed), custom_context=True, tag=f"build-{name}", rm=True, decode=True
        ):
            assert "error" not in line, line
        self._keep(f"build-{name}:latest")
        self.under_way = "load"
        archive = b"".join(api.get_image(f"commit-{name}"))
        self._remove(f"commit-{name}:latest")
        for line in api.load_image(archive):
            assert "error" not in line, line
        self._keep(f"commit-{name}:latest")
        self.gone.discard(f"commit-{name}:latest")
        self.under_way = "remove"
        self._remove(f"import-{name}:latest")

    def _keep(self, name: str) -> None:
        self.kept[name] = str(self._api.inspect_image(name)["Id"])

    def _remove(self, name: str) -> None:
        self.kept.pop(name, None)
        self._api.remove_image(name)
        self.gone.add(name)


def boot(guest: Guest, registry: str) -> None:
    guest.boot()
    guest.start_daemon("--insecure-registry", registry, state=STATE)


def check(guest: Guest, worker: Worker) -> None:
    """Nothing is broken, nothing acknowledged is missing, and what is there can be used."""
    api = guest.client.api
    answer = api._get(api.base_url + "/sampan/check")
    assert answer.ok, answer.text
    assert answer.json()["Problems"] == [], f"power lost during {worker.under_way}"
    images = {tag: image.id for image in guest.client.images.list() for tag in image.tags}
    assert worker.kept.items() <= images.items(), f"power lost during {worker.under_way}"
    assert not worker.gone & images.keys(), f"power lost during {worker.under_way}"
    for name in worker.kept:
        if name.startswith(("build", "pulled")):
            ran = guest.client.containers.run(name, "true", remove=True, network_mode="none")
            assert ran == b""
            break


@pytest.mark.parametrize("kernel", KERNELS)
def test_power_is_lost_at_any_instant(
    kernel: str,
    project: Path,
    disk: VolatileDisk,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(registry, "app", [busybox_tar(), files(1, 20), files(2, 20)])
    chance = random.Random(21)
    guest = Guest(project, kernel=kernel, disk=disk.drive, outward=True)
    address = f"{HOST}:{registry.port}"
    # One in each part of a turn, so that all kinds of work are met.
    parts = chance.sample(range(LOSSES), LOSSES)
    acknowledged = lost = 0
    instants: list[str] = []
    try:
        boot(guest, address)
        assert guest.client.info()["Driver"] == DRIVERS[kernel]
        guest.client.api.import_image_from_data(busybox_tar(), repository="busybox", tag="latest")
        for turn in range(LOSSES):
            off = threading.Event()
            worker = Worker(guest.client, f"{address}/app", off, turn)
            worker.start()
            # Counted in what is written, not in time, so that it does not depend on the machine.
            disk.stop_after(1 + int(REQUESTS * (parts[turn] + chance.random()) / LOSSES))
            while not disk.stopped.wait(0.5):
                assert worker.is_alive(), "the work has failed"
            off.set()
            guest.cut()
            lost += disk.lose_power(chance)
            worker.join(60)
            assert not worker.is_alive()
            instants.append(worker.under_way)
            acknowledged += len(worker.kept) + len(worker.gone)
            boot(guest, address)
            check(guest, worker)
            if turn + 1 < LOSSES:
                for name in worker.kept:
                    guest.client.api.remove_image(name, force=True)
    finally:
        guest.cut()
    with capsys.disabled():
        print(
            f"\n{LOSSES} losses of a machine's power under {DRIVERS[kernel]}, during {', '.join(instants)}: {lost} sectors "
            f"lost, {acknowledged} acknowledged changes all there ({disk.flushes} flushes)"
        )
