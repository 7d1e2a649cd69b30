"""A real daemon with directories, bridge and subnet of its own; and what it must leave: nothing."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sampan.network.settings import NetworkSettings

BUSYBOX = Path("/bin/busybox")
DEADLINE = 20.0


class Daemon:
    """One daemon process and its clients."""

    def __init__(self, root: Path, *flags: str) -> None:
        self.root = root
        self.state, self.run = root / "s", root / "r"
        self.flags = flags
        self.cgroup_parent = f"/sampan-test-{root.name}"
        self.process: subprocess.Popen[bytes] | None = None
        self._client: docker.DockerClient | None = None
        self.program = shutil.which("docker")
        """The docker CLI."""

    @property
    def url(self) -> str:
        return f"unix://{self.run}/sampan.sock"

    @property
    def client(self) -> docker.DockerClient:
        if self._client is None:
            self._client = docker.DockerClient(base_url=self.url, timeout=60)
        return self._client

    def command(self, *flags: str) -> list[str]:
        number = abs(hash(self.root.name))
        bip = f"10.{100 + number % 90}.{number // 90 % 250}.1/24"
        fixed = ["--state-dir", str(self.state), "--run-dir", str(self.run), "--bip", bip]
        fixed += ["--cgroup-parent", self.cgroup_parent, "-D", "--log-file", str(self.root / "log")]
        own = [flag.replace("{run}", str(self.run)) for flag in self.flags]
        return [sys.executable, "-m", "sampan.daemon", *fixed, *own, *flags]

    def start(self) -> None:
        """Start it and return when it answers."""
        read, write = os.pipe()
        try:
            self.process = subprocess.Popen(
                [*self.command(), "--ready-fd", str(write)],
                pass_fds=(write,),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        finally:
            os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.readline() == "READY\n", (self.root / "log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon, not its containers."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def docker(
        self, *arguments: str, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """The unmodified docker CLI; the test is skipped where there is none."""
        if self.program is None:
            pytest.skip("the docker CLI is not installed")
        return subprocess.run(
            [self.program, "-H", self.url, *arguments],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )

    def load_busybox(self) -> None:
        """Make the image ``busybox`` of this machine's static busybox."""
        self.client.api.import_image_from_data(
            busybox_tar(), repository="busybox", tag="latest", changes=['CMD ["sh"]']
        )

    def remove_containers(self) -> None:
        for container in self.client.containers.list(all=True, ignore_removed=True):
            try:
                container.remove(force=True, v=True)
            except docker.errors.NotFound:
                continue

    def leftovers(self) -> list[str]:
        """Whatever of this daemon is still on the machine besides its files."""
        root = str(self.root)
        settings = NetworkSettings(run_dir=str(self.run))
        # The storage driver keeps images mounted for the next container; clean() ends that.
        images = f" {self.run}/mounts/"
        found = [
            f"mount {line}"
            for line in _lines("/proc/self/mountinfo")
            if root in line and images not in line
        ]
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and int(process.name) != os.getpid():
                found += [f"process {process.name}: {what}" for what in _uses(process, root)]
        for group in Path("/sys/fs/cgroup").glob(f"*{self.cgroup_parent}/*/"):
            found.append(f"cgroup {group}")
        members = Path("/sys/class/net", settings.bridge, "brif")
        if members.is_dir():
            found += [f"link {member.name}" for member in members.iterdir()]
        return found

    def clean(self) -> None:
        """Delete the bridge, the table, the cgroup parent and mounts, which outlive a daemon."""
        for line in _lines("/proc/self/mountinfo"):
            place = line.split()[4]
            if place.startswith(f"{self.run}/mounts/"):
                subprocess.run(["umount", "-l", place], check=False)
        settings = NetworkSettings(run_dir=str(self.run))
        subprocess.run(["ip", "link", "del", settings.bridge], stderr=subprocess.DEVNULL)
        subprocess.run(
            ["nft", "delete", "table", "inet", settings.table], stderr=subprocess.DEVNULL
        )
        for group in Path("/sys/fs/cgroup").glob(f"*{self.cgroup_parent}"):
            group.rmdir()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _uses(process: Path, root: str) -> list[str]:
    """How a process is connected to the daemon's directories."""
    found = []
    try:
        if root.encode() in (process / "cmdline").read_bytes():
            found.append("command line")
        for link in (*(process / "fd").iterdir(), process / "cwd"):
            if root in os.readlink(link):
                found.append(os.readlink(link))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return found


def busybox_tar() -> bytes:
    """A root file system of one static program under all its names."""
    if not BUSYBOX.exists():
        pytest.skip("needs a static /bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True).stdout.decode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "home"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        data = BUSYBOX.read_bytes()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
        for applet in applets.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for name, text in (
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n"),
            ("etc/group", "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def until(condition: object, seconds: float = DEADLINE) -> object:
    """Ask until the answer is true, for what no event tells of; return the answer."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def running(*flags: str, kind: type[Daemon] = Daemon) -> Iterator[Daemon]:
    root = Path(tempfile.mkdtemp(prefix="smp"))
    daemon = kind(root, *flags)
    try:
        daemon.start()
        daemon.load_busybox()
        yield daemon
        daemon.remove_containers()
        daemon.stop()
        left = until_none(daemon)
        assert not left, "\n".join(left)
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        daemon.clean()
        shutil.rmtree(root, ignore_errors=True)


def until_none(daemon: Daemon, seconds: float = 5.0) -> list[str]:
    """What is left once those that end by themselves have ended."""
    deadline = time.monotonic() + seconds
    while (left := daemon.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
