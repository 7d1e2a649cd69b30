"""The disk under a working daemon stops at random instants, as when the power goes: what was not
forced to it is lost.  After the journal's recovery ``system check`` finds nothing wrong, and what
was acknowledged is there.  SAMPAN_TEST_POWER_LOSSES says how often (default 6)."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests
from harness import Daemon, running
from test_store_kills import context, files, problems
from urllib3.exceptions import HTTPError

LOSSES = int(os.environ.get("SAMPAN_TEST_POWER_LOSSES", "6"))
_GOING_DOWN = 0x8004587D
_WITHOUT_FLUSH = 2


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, folder: Path) -> None:
        self.place, self._image = folder / "disk", folder / "disk.img"
        self.place.mkdir()
        with self._image.open("wb") as out:
            out.truncate(400 << 20)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self.mount()

    def mount(self) -> None:
        # By a device of its own each time: the old one, and the file system that is shut down, live
        # on where another process has a copy of the mount in a namespace of its own.
        find = ["losetup", "--find", "--show", self._image]
        device = subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["mount", device, self.place], check=True)
        subprocess.run(["losetup", "--detach", device], check=True)  # with the last mount

    def lose_power(self) -> None:
        """Stop at once: nothing more reaches the disk, not even the journal."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _GOING_DOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        deadline = time.monotonic() + 20
        while subprocess.run(["umount", self.place], stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < deadline, "the file system stays busy"
            time.sleep(0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path)
    yield found
    subprocess.run(["umount", "-l", found.place], stderr=subprocess.DEVNULL)


class OnDisk(Daemon):
    """A daemon whose state is on the disk."""

    disk: Disk

    def __init__(self, root: Path, *flags: str) -> None:
        super().__init__(root, *flags)
        self.state = self.disk.place / "s"


class Worker(threading.Thread):
    """Loads, commits, builds and removes until the daemon is gone; ``kept`` are the images that
    were acknowledged, ``gone`` those whose removal was."""

    def __init__(self, daemon: Daemon, turn: int) -> None:
        super().__init__()
        self._api, self._turn = daemon.client.api, turn
        self.kept: dict[str, str] = {}
        self.gone: set[str] = set()

    def run(self) -> None:
        try:
            for step in range(1000):
                self._work(f"t{self._turn}-{step}", 1000 * self._turn + step)
        except (docker.errors.DockerException, requests.RequestException, HTTPError, OSError):
            pass  # what the client sees of a daemon whose disk is gone

    def _work(self, name: str, seed: int) -> None:
        api = self._api
        api.import_image_from_data(files(seed, 10), repository=f"import-{name}")
        self._keep(f"import-{name}:latest")
        container = api.create_container("busybox", ["true"])["Id"]
        api.put_archive(container, "/", files(seed, 5))
        api.commit(container, f"commit-{name}")
        self._keep(f"commit-{name}:latest")
        api.remove_container(container)
        list(api.build(fileobj=context(seed), custom_context=True, tag=f"build-{name}", rm=True))
        self._keep(f"build-{name}:latest")
        removed = f"import-{name}:latest"
        del self.kept[removed]
        api.remove_image(removed)
        self.gone.add(removed)

    def _keep(self, name: str) -> None:
        self.kept[name] = str(self._api.inspect_image(name)["Id"])


def test_power_loss_at_any_instant(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(11)
    OnDisk.disk = disk
    acknowledged = 0
    for daemon in running(kind=OnDisk):
        for turn in range(LOSSES):
            worker = Worker(daemon, turn)
            worker.start()
            time.sleep(chance.uniform(0.2, 2.5))  # The instant is the point of this test.
            disk.lose_power()
            daemon.stop(signal.SIGKILL)
            worker.join(60)
            assert not worker.is_alive()
            daemon.clean()
            disk.unmount()
            disk.mount()
            daemon._client = None
            daemon.start()
            assert problems(daemon) == [], f"after loss {turn}"
            images = {tag: i.id for i in daemon.client.images.list() for tag in i.tags}
            assert worker.kept.items() <= images.items()
            assert not worker.gone & images.keys()
            acknowledged += len(worker.kept) + len(worker.gone)
            daemon.client.api.prune_containers()
            for name in worker.kept:
                daemon.client.api.remove_image(name, force=True)
            daemon.load_busybox()
        with capsys.disabled():
            print(f"\n{LOSSES} losses of power, {acknowledged} acknowledged changes: all there")
