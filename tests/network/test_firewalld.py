"""Beside a real firewalld of Debian, on a system bus of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.network.dbus import Bus, BusError
from sampan.network.types import NetworkConfig, PortBinding

from .conftest import World, ask, needs_root, run, unreachable
from .test_manager import close_fds, request

CACHE = Path("/var/cache/sampan/tests")
PACKAGES = "base-files,netbase,firewalld,dbus"

pytestmark = [
    needs_root,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]
USERS = {
    "passwd": "root:x:0:0::/root:/bin/sh\nmessagebus:x:101:101::/:/bin/false\n",
    "group": "root:x:0:\nmessagebus:x:101:\n",
}

PREPARE = """
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --bind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/var"
mkdir -p "$0/var/lib/dbus" "$0/var/log"
mount --bind "$1" "$0/run"
chroot "$0" dbus-uuidgen --ensure
exec chroot "$0" dbus-daemon --system --nofork --nopidfile
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    """The packages, unpacked; made once a week."""
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / f"firewalld-{time.strftime('%G-%V')}"
    with (CACHE / "firewalld.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            for old in CACHE.glob("firewalld-*"):
                shutil.rmtree(old)
            made = root.with_suffix(".new")
            command = ["mmdebstrap", "--variant=extract", "--format=directory"]
            run(*command, f"--include={PACKAGES}", "bookworm", str(made))
            for name in ("proc", "dev", "run", "var"):
                (made / name).mkdir(exist_ok=True)
            for name, text in USERS.items():
                (made / "etc" / name).write_text(text)
            made.rename(root)
    return root


class Firewalld:
    """firewalld in the network namespace of the test."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.folder = Path(tempfile.mkdtemp(prefix="fwd-"))
        (self.folder / "dbus").mkdir()
        self.bus = str(self.folder / "dbus/system_bus_socket")
        with (self.folder / "log").open("wb") as log:
            self.daemon = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", PREPARE, self.root, str(self.folder)],
                stdout=log,
                stderr=log,
            )
        self.process: subprocess.Popen[bytes] | None = None
        assert self.until(Path(self.bus).exists), (self.folder / "log").read_text()

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self.daemon.pid}/ns/mnt", "chroot", self.root, *command]

    def start(self) -> None:
        command = ["python3", "/usr/sbin/firewalld", "--nofork", "--nopid"]
        self.process = subprocess.Popen(self.inside(*command), stderr=subprocess.DEVNULL)
        assert self.until(lambda: self.command("--state") == "running")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.stop()
        self.daemon.kill()
        self.daemon.wait()
        shutil.rmtree(self.folder)

    def command(self, *words: str) -> str:
        done = subprocess.run(
            self.inside("python3", "/usr/bin/firewall-cmd", *words), capture_output=True, text=True
        )
        return done.stdout.strip()

    @staticmethod
    def until(true: Callable[[], object]) -> bool:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if true():
                return True
            time.sleep(0.05)
        return False


@pytest.fixture
def firewalld(world: World, packages: Path) -> Iterator[Firewalld]:
    del world
    made = Firewalld(packages)
    yield made
    made.close()


async def eventually(true: Callable[[], object]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            if true():
                return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came true")


async def test_containers_beside_firewalld(
    world: World, firewalld: Firewalld, caplog: pytest.LogCaptureFixture
) -> None:
    """Published ports, the way out and the walls between networks hold when firewalld was there
    before us, when it reloads, and when it begins after us; bridges are in its zone."""
    caplog.set_level(logging.INFO)
    firewalld.start()
    manager = world.manager(system_bus=firewalld.bus)
    await manager.start(set())
    web = await manager.prepare(
        request("web", ports=[PortBinding(container_port=80, host_port=8080)])
    )
    inside = world.plug(web)
    world.serve(inside, 80)
    world.serve(world.lan, 80)
    back = await manager.create(NetworkConfig(name="back"))
    other = world.plug(await manager.prepare(request("other", "back")))
    with world.lan.entered():
        run("ip", "route", "add", "172.16.0.0/12", "via", "198.51.100.1")

    def all_is_well() -> bool:
        for client in (inside, other):
            with client.entered():
                if ask("198.51.100.2", 80, timeout=1) != "198.51.100.1":
                    return False
        with world.lan.entered():
            return bool(ask("198.51.100.1", 8080, timeout=1))

    assert all_is_well()
    bridges = {manager.get("bridge").bridge, back.bridge}
    assert set(firewalld.command("--zone=trusted", "--list-interfaces").split()) == bridges
    for words in (("--reload",), ("--complete-reload",)):
        assert firewalld.command(*words) == "success"
        await eventually(all_is_well)
        assert manager.check() == []
    firewalld.stop()
    assert all_is_well()
    firewalld.start()
    await eventually(all_is_well)
    with world.lan.entered():
        assert unreachable(web.endpoints[0].ip, 80)
    with other.entered():
        assert unreachable(web.endpoints[0].ip, 80)
    await manager.release(request("other").container_id)
    await manager.remove("back")
    # A bridge that the administrator has put into a zone stays there.
    assert firewalld.command("--zone=drop", "--add-interface=own0") == "success"
    named = {"com.docker.network.bridge.name": "own0"}
    await manager.create(NetworkConfig(name="own", options=named))
    assert firewalld.command("--get-zone-of-interface=own0") == "drop"
    await manager.remove("own")
    await eventually(
        lambda: (
            firewalld.command("--zone=trusted", "--list-interfaces") == manager.get("bridge").bridge
        )
    )
    assert "put sampan-" in caplog.text
    close_fds(web)
    await manager.close(remove_all=True)


async def test_a_bus_without_firewalld(
    world: World, firewalld: Firewalld, caplog: pytest.LogCaptureFixture
) -> None:
    manager = world.manager(system_bus=firewalld.bus)
    await manager.start(set())
    assert "firewalld" not in caplog.text
    with Bus(firewalld.bus, 5) as bus, pytest.raises(BusError, match="NameHasNoOwner"):
        name = "org.freedesktop.DBus"
        bus.call(name, "/org/freedesktop/DBus", name, "GetNameOwner", "org.nobody.Here")
    await manager.close(remove_all=True)
