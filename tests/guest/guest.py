"""Virtual machines for tests: an older kernel with control groups version 2, or a disk that can
lose power, on any machine that has QEMU.  Nothing of them is left when they end.

A guest is started with two disks: one that scripts/guest-image has made (Debian's Python, network
tools and kernel modules; changes to it are lost at the end), and one with this source tree and the
packages it depends on.  An agent in it answers requests; the daemon's socket can be reached from
outside, so that docker-py and other clients run here, where they are ten times as fast.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import docker

SOURCE = Path(__file__).parents[2]
IMAGES = Path(os.environ.get("SAMPAN_GUESTS", "/var/cache/sampan/guest"))
QEMU = "qemu-system-x86_64"
# Most of it would be waiting for other tests on a busy machine.
BOOT_SECONDS, START_SECONDS = 200.0, 300.0
PUBLISHED = 8080
"""A port of the guest that containers can be published on, to be reached through Guest.port."""
HOST = "10.0.2.2"
"""This machine, for a guest that may go outward."""
_AGENT, _RELAY = 7000, 7001
_KERNEL_ARGUMENTS = (
    # What of a real machine's caution only costs time under emulation is off.
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr audit=0 random.trust_cpu=on "
    "tsc=reliable net.ifnames=0 cgroup_no_v1=all apparmor=0"
)


def why_not() -> str:
    """Why guests cannot be started here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed"
    if not (IMAGES / "current" / "complete").exists():
        return f"no guest's disk in {IMAGES}: scripts/guest-image makes it"
    if sys.version_info[:2] != (3, 11):
        return "the guests' Python is 3.11, and its packages come from this environment"
    return ""


class Answer(NamedTuple):
    """How a command in the guest has ended."""

    code: int
    out: str
    err: str


def project_disk(place: Path) -> Path:
    """A file system with this source tree, the packages it needs and the agent."""
    tree, image = place / "project", place / "project.ext4"
    here = Path(__file__).parent / "inside"
    shutil.copytree(SOURCE / "sampan", tree / "sampan")
    shutil.copytree(here, tree / "guest")
    compiled = [sys.executable, "-m", "compileall", "-q", tree / "sampan", tree / "guest"]
    subprocess.run(compiled, check=True)
    packages = tree / "packages"
    for distribution in _dependencies("sampan"):
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or file.suffix in _NOT_RUN or not source.is_file():
                continue
            (packages / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, packages / file)
    with image.open("wb") as out:
        out.truncate(192 << 20)
    made = ["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", "-N", "8192", "-d", tree, image]
    subprocess.run(made, check=True, capture_output=True)
    shutil.rmtree(tree)
    return image


_NOT_RUN = {".c", ".h", ".pxd", ".pyi", ".pyx", ".typed"}


def _dependencies(name: str) -> list[importlib.metadata.Distribution]:
    """A distribution installed here and all that it needs at run time."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        key = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(key)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another Python or system
        for requirement in found[key].requires or ():
            if "extra ==" not in requirement and (word := re.match(r"[\w.-]+", requirement)):
                waiting.append(word[0])
    return list(found.values())


class Guest:
    """One virtual machine."""

    def __init__(
        self,
        project: Path,
        *,
        kernel: str = "6.1",
        arguments: str = "",
        disk: str = "",
        published: Sequence[int] = (),
        outward: bool = False,
        memory: int = 768,
    ) -> None:
        """``kernel`` is a series that there is: 6.1 or 6.12; ``arguments`` are added to its
        command line.  ``disk`` is a third drive, in QEMU's words, that the guest mounts on /disk.
        ``published`` ports of the guest are reachable here through :meth:`port`; an ``outward``
        guest finds this machine's loopback at :data:`HOST`."""
        self._project, self._arguments, self._disk = project, arguments, disk
        self._kernel = kernel
        self._published, self._outward = tuple(published), outward
        self._memory = memory
        self._ports: dict[int, int] = {}
        self._client: docker.DockerClient | None = None
        self.daemon = 0
        self.reason = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.console: list[str] = []

    def boot(self) -> None:
        """Start the machine; return when its agent answers."""
        ports = (_AGENT, _RELAY, *self._published)
        self._ports = dict(zip(ports, _free_ports(len(ports)), strict=True))
        network = f"user,id=net,restrict={'off' if self._outward else 'on'}"
        for inside, outside in self._ports.items():
            network += f",hostfwd=tcp:127.0.0.1:{outside}-:{inside}"
        image = IMAGES / "current"
        # The machine ends with whoever has started it.
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            QEMU,
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,la57=off",
        ]
        command += ["-smp", "1", "-m", str(self._memory), "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-no-reboot", "-serial", "stdio"]
        command += ["-kernel", f"{image}/vmlinuz-{self._kernel}"]
        command += ["-initrd", f"{image}/initrd-{self._kernel}"]
        command += ["-append", f"{_KERNEL_ARGUMENTS} {self._arguments}"]
        command += ["-drive", f"if=virtio,format=raw,snapshot=on,file={image}/root.ext4"]
        command += ["-drive", f"if=virtio,format=raw,readonly=on,file={self._project}"]
        if self._disk:
            command += ["-drive", f"if=virtio,{self._disk}"]
        command += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        self.console = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        ready = threading.Event()
        threading.Thread(target=self._listen, args=(self.process, ready), daemon=True).start()
        if not ready.wait(BOOT_SECONDS) or self.process.poll() is not None:
            self.cut()
            raise AssertionError("the guest has not started:\n" + "\n".join(self.console))

    def _listen(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.console.append(line.decode(errors="replace").rstrip())
            if "guest is ready" in self.console[-1]:
                ready.set()
        ready.set()  # it will not come any more

    def cut(self) -> None:
        """Take its power away."""
        self._client = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def port(self, inside: int) -> int:
        """Where a published port of the guest can be reached on 127.0.0.1."""
        return self._ports[inside]

    def ask(self, what: str, seconds: float = 120, **request: Any) -> dict[str, Any]:
        address = ("127.0.0.1", self._ports[_AGENT])
        with socket.create_connection(address, seconds) as connection:
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps({"do": what, **request}).encode() + b"\n")
                stream.flush()
                line = stream.readline()
        assert line, "the guest is gone:\n" + "\n".join(self.console[-30:])
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer

    def run(self, *argv: str, input: bytes = b"", timeout: float = 90) -> Answer:
        """Run a command in the guest."""
        data = base64.b64encode(input).decode()
        said = self.ask("run", timeout + 30, argv=argv, input=data, timeout=timeout)
        out, err = (base64.b64decode(said[key]).decode(errors="replace") for key in ("out", "err"))
        return Answer(said["code"], out, err)

    def sampan(self, *arguments: str, input: bytes = b"", timeout: float = 90) -> Answer:
        """Run our command line in the guest."""
        start = ("python3", "-S", "-c", "from sampan.cli.main import entry; entry()")
        return self.run(*start, *arguments, input=input, timeout=timeout)

    def read(self, *patterns: str) -> dict[str, str]:
        """The contents of all files that match, by path."""
        found: dict[str, str] = self.ask("read", patterns=patterns)["files"]
        return found

    def write(self, path: str, data: bytes) -> None:
        self.ask("write", path=path, data=base64.b64encode(data).decode())

    def start_daemon(self, *flags: str, state: str = "/var/lib/sampan") -> None:
        """Start a daemon at the socket that :attr:`client` talks to; :attr:`daemon` is its
        process in the guest, :attr:`reason` why the first one chose its storage driver."""
        command = ["python3", "-m", "sampan.daemon", "--state-dir", state, "-D"]
        command += ["--run-dir", "/run/sampan", "--log-file", "/var/log/sampan.log", *flags]
        answer = self.ask("start", START_SECONDS, argv=command)
        assert answer["said"] == "READY\n", self.read("/var/log/sampan.log", "/var/log/daemon")
        self._client = None
        self.daemon = int(answer["pid"])
        self.reason = self.reason or dict(self.client.info()["DriverStatus"])["Chosen because"]

    @property
    def client(self) -> docker.DockerClient:
        """docker-py, here, connected to the daemon in the guest."""
        if self._client is None:
            url = f"tcp://127.0.0.1:{self._ports[_RELAY]}"
            self._client = docker.DockerClient(base_url=url, timeout=120)
        return self._client


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
