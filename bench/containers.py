"""What containers cost: their output, a thousand of them, and the OCI runtimes' command lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from .engines import CommandFailed, Engine, Sampan
from .scenarios import IMAGE, SETTLED, Timed, busybox_tar, children, pss_megabytes, scenario

LINES = 300_000
LINES_IMAGE = "bench:lines"
WRITE = ("cat", "/lines")
"""A file, whose writing costs next to nothing: a pipeline that makes the lines takes 170 ms by
itself, which is more than what is measured."""
MAKE = ("sh", "-c", f"yes {'x' * 99} | head -n {LINES}")
SLEEPERS = 1000
OCI = Path(__file__).parents[1] / "scripts/sampan-oci"


def load_lines(engine: Engine) -> None:
    """The image with the file of lines, which all engines get in the same way."""
    if engine.name in _loaded:
        return
    buffer = BytesIO(busybox_tar())
    content = (b"x" * 99 + b"\n") * LINES
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        entry = tarfile.TarInfo("lines")
        entry.size = len(content)
        tar.addfile(entry, BytesIO(content))
    engine.call("import", "-c", 'CMD ["sh"]', "-", LINES_IMAGE, stdin=buffer.getvalue())
    _loaded.add(engine.name)


_loaded: set[str] = set()


def read_lines(engine: Engine, *arguments: str) -> None:
    """Read the lines that a command prints; it is an error if there are fewer or more."""
    printed = engine.stream(*arguments)
    if printed != LINES * 100:
        raise CommandFailed(f"{engine.name} {arguments[0]}: {printed} bytes of {LINES * 100}")


@scenario("300,000 lines logged", target=300, group="containers", runs=3)
def logged(engine: Engine) -> Iterator[Timed]:
    load_lines(engine)
    name = f"bench-logged-{time.time_ns()}"

    def write() -> None:
        engine.call("run", "-d", "--network", "none", "--name", name, LINES_IMAGE, *WRITE)
        engine.call("wait", name)

    def before() -> None:
        engine.call("rm", "-f", name, check=False)

    write.before = before  # type: ignore[attr-defined]
    try:
        yield write
    finally:
        engine.remove(name)


@scenario("300,000 lines read back", target=150, group="containers", runs=3)
def read_back(engine: Engine) -> Iterator[Timed]:
    load_lines(engine)
    name = engine.call("run", "-d", "--network", "none", LINES_IMAGE, *WRITE)
    engine.call("wait", name)
    try:
        yield lambda: read_lines(engine, "logs", name)
    finally:
        engine.remove(name)


@scenario("300,000 lines attached", target=150, group="containers", runs=3)
def attached(engine: Engine) -> Iterator[Timed]:
    load_lines(engine)
    yield lambda: read_lines(engine, "run", "--rm", "--network", "none", LINES_IMAGE, *WRITE)


@scenario("300,000 lines made and attached", group="containers", runs=3)
def made_and_attached(engine: Engine) -> Iterator[Timed]:
    yield lambda: read_lines(engine, "run", "--rm", "--network", "none", IMAGE, *MAKE)


@scenario("one of 1,000 sleepers (PSS)", target=0.6, unit="MB", group="thousand", sampan_only=True)
def a_thousand(engine: Engine) -> Iterator[float]:
    """Sampan's part: daemon, spawner and keepers, divided by the containers.  What the containers
    run is below them, and not sampan's."""
    assert isinstance(engine, Sampan)
    with thousand(engine) as names:
        time.sleep(SETTLED)
        own = [engine.daemon.pid]
        for pid in own:
            own += children(pid)
        inits: set[int] = set()
        for first in range(0, len(names), 100):
            some = names[first : first + 100]
            inits |= set(map(int, engine.call("inspect", "-f", "{{.State.Pid}}", *some).split()))
        keepers = {parent_of(init) for init in inits}
        yield sum(map(pss_megabytes, {*own, *keepers} - inits)) / len(names)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])


@scenario("ps of 1,000", target=120, group="thousand", sampan_only=True)
def ps_of_a_thousand(engine: Engine) -> Iterator[Timed]:
    with thousand(engine):
        yield lambda: engine.call("ps")


class thousand:
    """A thousand sleeping containers, for a while."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.names: list[str] = []

    def __enter__(self) -> list[str]:
        for _ in range(SLEEPERS):
            words = ("run", "-d", "--network", "none", IMAGE, "sleep", "9999")
            self.names.append(self.engine.call(*words))
        return self.names

    def __exit__(self, *_: object) -> None:
        for first in range(0, len(self.names), 100):
            self.engine.remove(*self.names[first : first + 100])


def runtime(command: list[str]) -> Iterator[Timed]:
    """``run`` of ``true`` by an OCI runtime's command line."""
    if shutil.which(command[0]) is None:
        raise CommandFailed(f"{command[0]} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        with tarfile.open(fileobj=BytesIO(busybox_tar())) as tar:
            tar.extractall(bundle / "rootfs", filter="tar")
        subprocess.run([sys.executable, OCI, "spec", "-b", folder], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["ociVersion"] = "1.0.2"
        config["process"] |= {"args": ["true"], "terminal": False}
        (bundle / "config.json").write_text(json.dumps(config))
        words = [*command, "--root", f"{folder}/state", "run", "-b", folder, bundle.name]
        # As installed programs run: with compiled code beside them.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

        def once() -> None:
            streams = {"stdin": subprocess.DEVNULL, "capture_output": True}
            subprocess.run(words, check=True, env=environment, **streams)

        once()
        yield once


@scenario("sampan-oci run true", target=30, group="oci", sampan_only=True)
def sampan_oci(engine: Engine) -> Iterator[Timed]:
    yield from runtime([sys.executable, str(OCI)])


@scenario("crun run true", group="oci", sampan_only=True)
def crun(engine: Engine) -> Iterator[Timed]:
    hide = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec crun "$@"'
    yield from runtime(["unshare", "--mount", "sh", "-c", hide, "crun"])


@scenario("runc run true", group="oci", sampan_only=True)
def runc(engine: Engine) -> Iterator[Timed]:
    yield from runtime(["runc"])
