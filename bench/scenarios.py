"""What is measured: one function a figure.

A scenario gets an engine whose image ``bench:busybox`` is there, does its set-up, and gives a
``Figure``: a callable that is timed, or a value that is read once.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .engines import CommandFailed, Engine, Sampan

IMAGE = "bench:busybox"
SETTLED = 1.0
"""Seconds after a start until a keeper's memory is what it will be."""
Timed = Callable[[], object]


@dataclass(frozen=True)
class Scenario:
    name: str
    unit: str
    target: float | None
    prepare: Callable[[Engine], Iterator[Timed | float]]
    group: str
    runs: int = 10
    sampan_only: bool = False


ALL: list[Scenario] = []


def scenario(
    name: str,
    *,
    target: float | None = None,
    unit: str = "ms",
    group: str = "main",
    runs: int = 10,
    sampan_only: bool = False,
) -> Callable[[Callable[[Engine], Iterator[Timed | float]]], None]:
    def register(function: Callable[[Engine], Iterator[Timed | float]]) -> None:
        ALL.append(Scenario(name, unit, target, function, group, runs, sampan_only))

    return register


def busybox_tar() -> bytes:
    """A root file system of one static busybox and its applets' links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "etc", "tmp", "root", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        program = Path("/bin/busybox").read_bytes()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
        applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True)
        for applet in applets.stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for name, text in (("passwd", "root:x:0:0::/root:/bin/sh\n"), ("group", "root:x:0:\n")):
            entry = tarfile.TarInfo(f"etc/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def load_image(engine: Engine) -> None:
    engine.call("import", "-c", 'CMD ["sh"]', "-", IMAGE, stdin=busybox_tar())


@scenario("run --rm, bridge network", target=60)
def run_bridge(engine: Engine) -> Iterator[Timed]:
    yield lambda: engine.call("run", "--rm", IMAGE, "true")


@scenario("run --rm --network none", target=35)
def run_none(engine: Engine) -> Iterator[Timed]:
    yield lambda: engine.call("run", "--rm", "--network", "none", IMAGE, "true")


@scenario("run --rm -p PORT:80", target=60, group="network")
def run_port(engine: Engine) -> Iterator[Timed]:
    yield lambda: engine.call("run", "--rm", "-p", "127.0.0.1:28080:80", IMAGE, "true")


@contextmanager
def sleeper(engine: Engine, *flags: str) -> Iterator[str]:
    name = engine.call("run", "-d", *flags, IMAGE, "sleep", "1000000").splitlines()[-1]
    try:
        yield name
    finally:
        engine.remove(name)


@scenario("exec true", target=35)
def exec_true(engine: Engine) -> Iterator[Timed]:
    with sleeper(engine) as name:
        yield lambda: engine.call("exec", name, "true")


@scenario("ps", target=35)
def ps(engine: Engine) -> Iterator[Timed]:
    yield lambda: engine.call("ps")


@scenario("images", target=35)
def images(engine: Engine) -> Iterator[Timed]:
    yield lambda: engine.call("images")


def ten_steps(engine: Engine) -> Path:
    folder = engine.work / "ten-steps"
    folder.mkdir(exist_ok=True)
    lines = [f"FROM {IMAGE}", *(f"RUN echo {n} > /step{n}" for n in range(10))]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    return folder


@scenario("build, ten RUN, uncached", target=150, runs=5)
def build_uncached(engine: Engine) -> Iterator[Timed]:
    folder = engine.path(ten_steps(engine))
    yield lambda: engine.call(
        "build", *engine.build_flags, "-q", "--no-cache", "-t", "ten:1", folder
    )


@scenario("build, ten RUN, cached", target=60)
def build_cached(engine: Engine) -> Iterator[Timed]:
    folder = engine.path(ten_steps(engine))
    engine.call("build", *engine.build_flags, "-q", "-t", "ten:1", folder)
    yield lambda: engine.call("build", *engine.build_flags, "-q", "-t", "ten:1", folder)


def four_at_a_time(engine: Engine, commands: list[list[str]]) -> None:
    waiting, going = commands[::-1], []
    while waiting or going:
        while waiting and len(going) < 4:
            going.append(engine.popen(*waiting.pop()))
        first = going.pop(0)
        if first.wait() != 0:
            raise CommandFailed(f"{engine.name}: a command of the batch failed")


@scenario("50 containers, four at a time: run -d", target=1500, runs=3)
def start_fifty(engine: Engine) -> Iterator[Timed]:
    names = [f"fifty-{n}" for n in range(50)]

    def start() -> None:
        four_at_a_time(engine, [["run", "-d", "--name", n, IMAGE, "sleep", "9999"] for n in names])

    start.after = lambda: engine.remove(*names)  # type: ignore[attr-defined]
    yield start


@scenario("50 containers: rm -f", target=1000, runs=3)
def remove_fifty(engine: Engine) -> Iterator[Timed]:
    names = [f"fifty-{n}" for n in range(50)]

    def start() -> None:
        four_at_a_time(engine, [["run", "-d", "--name", n, IMAGE, "sleep", "9999"] for n in names])

    def remove() -> None:
        engine.remove(*names)

    remove.before = start  # type: ignore[attr-defined]
    yield remove


def pss_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise CommandFailed(f"no Pss of process {pid}")


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for text in lists for child in text.read_text().split()]


@scenario("daemon, idle (PSS)", target=60, unit="MB", sampan_only=True)
def daemon_memory(engine: Engine) -> Iterator[float]:
    assert isinstance(engine, Sampan)
    yield pss_megabytes(engine.daemon.pid)


@scenario("spawner (PSS)", target=25, unit="MB", sampan_only=True)
def spawner_memory(engine: Engine) -> Iterator[float]:
    assert isinstance(engine, Sampan)
    below = [engine.daemon.pid]
    for pid in below:
        below += children(pid)
    spawners = [pid for pid in below if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    if not spawners:
        raise CommandFailed("no spawner below the daemon")
    yield pss_megabytes(spawners[0])


@scenario("a keeper, of ten (PSS)", target=1, unit="MB", sampan_only=True)
def keeper_memory(engine: Engine) -> Iterator[float]:
    names = [engine.call("run", "-d", IMAGE, "sleep", "9999") for _ in range(10)]
    try:
        time.sleep(SETTLED)
        sizes = []
        for name in names:
            init = int(engine.call("inspect", "-f", "{{.State.Pid}}", name))
            status = Path(f"/proc/{init}/status").read_text()
            keeper = int(status.split("PPid:")[1].split()[0])
            sizes.append(pss_megabytes(keeper))
        yield sorted(sizes)[len(sizes) // 2]
    finally:
        engine.remove(*names)
