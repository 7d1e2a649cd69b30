"""The engines under measurement: sampan from a wheel in a fresh environment, Docker and Podman."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sampan.network.settings import NetworkSettings

REPOSITORY = Path(__file__).resolve().parent.parent
PEERS_ROOT = Path(os.environ.get("SAMPAN_PEERS", "/var/cache/sampan/peers"))


class CommandFailed(Exception):
    """A measured command did not do what it is measured for."""


class Engine:
    """One engine: a command prefix, the folder where its client sees files, and its processes."""

    name = "engine"
    prefix: tuple[str, ...] = ()
    build_flags: tuple[str, ...] = ()

    def __init__(self, work: Path) -> None:
        self.work = work
        """A scratch folder, as this process sees it."""
        self.environment = dict(os.environ)

    def path(self, path: Path) -> str:
        """The name by which the engine's client knows a file under :attr:`work`."""
        return str(path)

    def call(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [*self.prefix, *arguments],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            env=self.environment,
        )
        if check and done.returncode != 0:
            text = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise CommandFailed(
                f"{self.name} {' '.join(arguments)}: exit {done.returncode}: {text}"
            )
        return done.stdout.decode(errors="replace").strip()

    def stream(self, *arguments: str) -> int:
        """How many bytes a command prints.  They are not looked at, and read in large pieces: the
        reader shall cost as little as it can beside what it measures."""
        place = memoryview(bytearray(1 << 20))
        printed = 0
        with self.popen(*arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while size := os.readv(process.stdout.fileno(), [place]):
                printed += size
        if process.returncode != 0:
            raise CommandFailed(f"{self.name} {' '.join(arguments)}: exit {process.returncode}")
        return printed

    def popen(self, *arguments: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.prefix, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )

    def remove(self, *names: str) -> None:
        """Remove containers by force, without a time to stop in."""
        self.call("rm", "-f", *names)

    def start(self) -> None: ...

    def stop(self) -> None: ...


def wait_for_socket(path: Path, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Return once *path* exists; raise when *process* ends first or the time is up."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None:
            raise CommandFailed(f"the daemon ended with {process.returncode} before it listened")
        if time.monotonic() > deadline:
            raise CommandFailed(f"no socket at {path} after {seconds:.0f} s")
        time.sleep(0.05)


class Sampan(Engine):
    """sampan from a wheel of this checkout, with a state directory of its own."""

    name = "sampan"

    def start(self) -> None:
        environment = self.work / "venv"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run(
            [environment / "bin/pip", "install", "-q", "--disable-pip-version-check", REPOSITORY],
            check=True,
        )
        subprocess.run(
            [environment / "bin/python", "-m", "compileall", "-q", environment / "lib"],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        self.prefix = (str(environment / "bin/sampan"),)
        run = self.work / "run"
        self.environment |= {
            "SAMPAN_STATE_DIR": str(self.work / "state"),
            "SAMPAN_RUN_DIR": str(run),
        }
        for name in ("DOCKER_HOST", "SAMPAN_HOST", "DOCKER_CONTEXT"):
            self.environment.pop(name, None)
        self.environment["PYTHONDONTWRITEBYTECODE"] = ""
        log = (self.work / "daemon.log").open("wb")
        self.daemon = subprocess.Popen(
            [environment / "bin/python", "-m", "sampan.daemon"],
            env=self.environment,
            stdout=log,
            stderr=log,
        )
        wait_for_socket(run / "sampan.sock", self.daemon)

    def stop(self) -> None:
        with contextlib.suppress(CommandFailed):
            names = self.call("ps", "-aq").split()
            if names:
                self.call("rm", "-f", *names)
            self.call("system", "prune", "-f", check=False)
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(30)
        # Bridge and rules outlive a daemon, and every packet of the next figures would pay for them.
        settings = NetworkSettings(run_dir=self.environment["SAMPAN_RUN_DIR"])
        for command in (
            ["ip", "link", "del", settings.bridge],
            ["nft", "delete", "table", "inet", settings.table],
        ):
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


class Chroot(Engine):
    """An engine in the root directory made by ``scripts/peers``, or on this machine itself."""

    program = ""

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.inside = PEERS_ROOT.is_dir()
        self.root = PEERS_ROOT if self.inside else Path("/")
        # Peers get network and mount namespaces of their own: what they leave goes with them.
        setup = ["ip link set lo up"]
        if self.inside:
            # A daemon remounts its root, which has to be a mount point for that.
            setup.append(f"mount --bind {self.root} {self.root}")
            setup += [f"mount --rbind /{d} {self.root}/{d}" for d in ("proc", "sys", "dev")]
        script = " && ".join([*setup, "echo ready", "exec sleep 100000"])
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation=private", "sh", "-c", script],
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != b"ready\n":
            raise CommandFailed(f"{self.name}: its namespaces could not be set up")
        place = f"/proc/{self.holder.pid}/ns"
        self.enter: tuple[str, ...] = ("nsenter", f"--net={place}/net", f"--mount={place}/mnt")
        if self.inside:
            self.work = self.root / "tmp" / f"bench-{os.getpid()}-{self.name}"
            self.work.mkdir(parents=True)
            self.enter += ("chroot", str(self.root))

    def path(self, path: Path) -> str:
        return "/" + str(path.relative_to(self.root))

    def stop(self) -> None:
        self.holder.kill()
        self.holder.wait()
        if self.inside:
            shutil.rmtree(self.work, ignore_errors=True)

    @classmethod
    def installed(cls) -> bool:
        root = PEERS_ROOT if PEERS_ROOT.is_dir() else Path("/")
        return any((root / f / cls.program).exists() for f in ("usr/bin", "usr/sbin"))


class Docker(Chroot):
    name = "docker"
    program = "dockerd"

    def start(self) -> None:
        socket = self.work / "docker.sock"
        log = (self.work / "dockerd.log").open("wb")
        place = self.path(self.work)
        self.daemon = subprocess.Popen(
            [
                *self.enter,
                "dockerd",
                f"--data-root={place}/data",
                f"--exec-root={place}/exec",
                f"--pidfile={place}/pid",
                f"--host=unix://{place}/docker.sock",
                "--bip=172.29.77.1/24",
            ],
            stdout=log,
            stderr=log,
        )
        client = ("chroot", str(self.root)) if self.inside else ()
        self.prefix = (*client, "docker", "-H", f"unix://{place}/docker.sock")
        wait_for_socket(socket, self.daemon)
        self.call("version")

    def stop(self) -> None:
        names = self.call("ps", "-aq", check=False).split()
        if names:
            self.call("rm", "-f", *names, check=False)
        self.daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.daemon.wait(30)
        super().stop()


class Podman(Chroot):
    name = "podman"
    program = "podman"
    # As in containers.conf below, which its builder does not read.
    build_flags = ("--ulimit", "nofile=10000:10000")

    def start(self) -> None:
        place = self.path(self.work)
        # Without the right to raise limits, the defaults have to fit this machine's.
        settings = self.work / "containers.conf"
        settings.write_text('[containers]\ndefault_ulimits = ["nofile=10000:10000"]\n')
        self.environment |= {
            "CONTAINERS_CONF": self.path(settings),
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }
        self.prefix = (
            *self.enter,
            "podman",
            "--runtime=runc",
            "--root",
            f"{place}/root",
            "--runroot",
            f"{place}/run",
            "--cgroup-manager=cgroupfs",
        )

    def remove(self, *names: str) -> None:
        self.call("rm", "-f", "-t", "0", *names)

    def stop(self) -> None:
        self.call("rm", "-f", "-a", "-t", "0", check=False)
        super().stop()


KINDS: dict[str, type[Engine]] = {kind.name: kind for kind in (Sampan, Docker, Podman)}


@contextlib.contextmanager
def running(names: list[str]) -> Iterator[list[Engine]]:
    """Start the named engines that are installed; stop them all at the end."""
    with tempfile.TemporaryDirectory(prefix="sampan-bench-", ignore_cleanup_errors=True) as folder:
        engines: list[Engine] = []
        try:
            for name in names:
                kind = KINDS[name]
                if issubclass(kind, Chroot) and not kind.installed():
                    print(f"{name} is not installed: left out (scripts/peers brings it)")
                    continue
                work = Path(folder) / name
                work.mkdir()
                engine = kind(work)
                try:
                    engine.start()
                except (CommandFailed, OSError, subprocess.SubprocessError) as error:
                    print(f"{name} does not start here: left out: {error}")
                    if isinstance(engine, Sampan):
                        raise
                    Chroot.stop(engine) if isinstance(engine, Chroot) else None
                    continue
                engines.append(engine)
            yield engines
        finally:
            for engine in engines:
                engine.stop()
