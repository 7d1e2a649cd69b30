"""The docker CLI through every command and flag, table-driven."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cli_rows import DIFFERS, NEWER, ROWS, SETTINGS, Row, Setting
from dockerd import Dockerd, program
from golden import Golden, transcript
from harness import Daemon, running

from tests.registry.servers import Registry, docker_registry

OWN = shutil.which("docker")
PEER = program()
pytestmark = pytest.mark.skipif(OWN is None and PEER is None, reason="needs the docker CLI")
WRITE = os.environ.get("SAMPAN_GOLDEN") == "write"
GOLDEN = Golden()
V1 = Path("/sys/fs/cgroup/memory").is_dir()
"""The golden files were written with control groups of version 1."""

HOST_LACKS = ("/sys/fs/cgroup/", "could not select device driver", "us of realtime are more than")
"""What is said of a setting that not every host has."""

ID = re.compile(r"[0-9a-f]{64}")


@pytest.fixture(scope="module")
def world() -> Iterator[Daemon]:
    """A daemon with a network ``net``, and a running container ``box``.

    Its CLI is the one that the golden files were written with, where there is that.
    """
    for daemon in running(kind=Dockerd if WRITE else Daemon):
        daemon.program = PEER or OWN
        subnets = ["--ipv6", "--subnet", "10.214.9.0/24", "--subnet", "fd00:214::/64"]
        for line in (
            ["network", "create", *subnets, "net"],
            ["run", "-d", "--name", "box", "-v", "/data", "busybox", "sleep", "100000"],
        ):
            done = daemon.docker(*line)
            assert done.returncode == 0, done.stderr.decode()
        yield daemon
        daemon.remove_containers()
        daemon.client.networks.get("net").remove()
        # Like any engine, ours leaves a control group's parent that a user has named.
        for group in Path("/sys/fs/cgroup").glob(f"*{daemon.cgroup_parent}/flags"):
            group.rmdir()


def docker(
    daemon: Daemon, *arguments: str, input: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A docker command; the test is skipped where this machine's CLI is too old for a flag."""
    done = daemon.docker(*arguments, input=input)
    if _is_unknown(done) and daemon.program == PEER and OWN is not None and not WRITE:
        # A flag newer than the golden files' CLI: this machine's may have it.
        daemon.program = OWN
        try:
            done = daemon.docker(*arguments, input=input)
        finally:
            daemon.program = PEER
    if _is_unknown(done):
        pytest.skip(f"this docker CLI does not know it: {done.stderr.decode()}")
    return done


def _is_unknown(done: subprocess.CompletedProcess[bytes]) -> bool:
    unknown = (b"unknown flag", b"unknown shorthand flag", b"is not a docker command")
    return any(words in done.stderr for words in unknown)


def compare(command: str, line: str, done: subprocess.CompletedProcess[bytes],
            places: Mapping[str, str]) -> None:  # fmt: skip
    """Compare with the golden file, or write it."""
    if line.partition("; ")[0] in DIFFERS:
        return
    text = transcript(done.stdout.decode(), done.stderr.decode(), done.returncode, places)
    if WRITE:
        GOLDEN.put(command, line, text)
        return
    wanted = GOLDEN.get(command, line)
    if PEER is None or wanted is None:
        return
    if not V1 and not done.returncode:
        # What is written beside the result is what the kernel lacks, and this is another kernel.
        text, wanted = (each.partition("(errors)")[0].strip("\n") for each in (text, wanted))
    difference = difflib.unified_diff(
        wanted.splitlines(), text.splitlines(), "Docker's engine", "ours", lineterm=""
    )
    assert text == wanted, "\n".join(difference)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that rows name, and a home for the CLI's own configuration."""
    (tmp_path / "env").write_text("FROM=file\n# a comment\n")
    (tmp_path / "labels").write_text("of=file\n")
    (tmp_path / "password").write_text("secret")
    for name in ("context", "scratch"):
        (tmp_path / name).mkdir()
    dockerfile = "FROM busybox AS first\nARG WHO\nRUN echo $WHO > /who\nFROM first\nCMD true\n"
    (tmp_path / "context" / "Dockerfile").write_text(dockerfile)
    (tmp_path / "context" / "Other").write_text("FROM busybox\nLABEL other=yes\n")
    (tmp_path / "scratch" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    return tmp_path


def words(text: str, places: Mapping[str, str]) -> list[str]:
    return [word.format(**places) for word in shlex.split(text)]


def places_of(world: Daemon, folder: Path, registry: str = "") -> dict[str, str]:
    cgroup = f"{world.cgroup_parent}/flags"
    return {
        "tmp": str(folder),
        "net": "net",
        "box": "box",
        "cgroup": cgroup,
        "registry": registry,
    }


@pytest.mark.parametrize("command", ["create", "run"])
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_setting(world: Daemon, folder: Path, command: str, setting: Setting) -> None:
    places = places_of(world, folder)
    flags = words(setting.arguments, places)
    done = docker(world, command, "--name", "it", *flags, "busybox", "true")
    error = done.stderr.decode()
    noun, line = f"container {command}", f"{command} --name it {setting.arguments} busybox true"
    try:
        if WRITE:
            compare(noun, line, done, places)
            if done.returncode == 0 and setting.flag != "--rm":
                shown = docker(world, "inspect", "-f", setting.template, "it")
                compare("inspect", f"{line}; {setting.template}", shown, places)
            return
        if setting.refused:
            assert done.returncode in (1, 125) and setting.refused in error.lower(), error
            return
        if (
            command == "run"
            and setting.host_may_refuse
            and any(text in error for text in HOST_LACKS)
        ):
            return
        assert done.returncode == 0, error
        compare(noun, line, done, places)
        if command == "create":
            assert ID.fullmatch(done.stdout.decode().strip())
        elif setting.flag == "--rm":
            assert docker(world, "inspect", "it").returncode == 1
            return
        shown = docker(world, "inspect", "-f", setting.template, "it")
        assert shown.returncode == 0, shown.stderr.decode()
        compare("inspect", f"{line}; {setting.template}", shown, places)
        if PEER is not None and GOLDEN.get("inspect", f"{line}; {setting.template}") is not None:
            return
        wanted = setting.shown
        for name, value in places.items():
            wanted = wanted.replace(f"{{{name}}}", value)
        assert shown.stdout.decode().strip() == wanted
    finally:
        docker(world, "rm", "-f", "-v", "it")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.command} {row.flags}")
def test_row(world: Daemon, folder: Path, registry: Registry, row: Row) -> None:
    places = places_of(world, folder, registry.host)
    try:
        for line in row.before:
            done = docker(world, *config(line, folder), *words(line, places))
            assert WRITE or done.returncode == 0, done.stderr.decode()
        input = (folder / row.stdin).read_bytes() if row.stdin else None
        done = docker(world, *config(row.line, folder), *words(row.line, places), input=input)
        compare(row.command, row.line, done, places)
        if WRITE:
            return
        output = (done.stdout + done.stderr).decode().replace("\r", "")
        assert done.returncode == row.code, output
        pattern = row.prints.replace("{registry}", registry.host)
        printed = output if row.code else done.stdout.decode()
        assert re.search(pattern, printed) or re.search(pattern, output), output
    finally:
        tidy(world)


def config(line: str, folder: Path) -> list[str]:
    """Flags for a CLI configuration of the test's own, where the command writes to it."""
    return ["--config", str(folder)] if line.startswith(("login", "logout", "manifest")) else []


def tidy(world: Daemon) -> None:
    """Remove what a row has made."""
    client = world.client
    for container in client.containers.list(all=True, ignore_removed=True):
        if container.name != "box":
            container.remove(force=True, v=True)
    # Before flags-from, which flags-net may be made from.
    for network in sorted(client.networks.list(), key=lambda n: str(n.name), reverse=True):
        if network.name.startswith("flags-"):
            network.remove()
    for volume in client.volumes.list():
        if volume.name.startswith("flags-"):
            volume.remove()
    for image in client.images.list():
        for tag in image.tags:
            if tag != "busybox:latest":
                client.images.remove(tag, force=True)
    client.images.prune(filters={"dangling": True})
    client.api.prune_builds()


PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"


@pytest.mark.proves("docker system dial-stdio")
def test_dial_stdio(world: Daemon) -> None:
    command = ["docker", "-H", world.url, "system", "dial-stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(PING)
        process.stdin.flush()
        assert process.stdout.readline() == b"HTTP/1.1 200 OK\r\n"
        process.stdin.close()
        assert process.wait(20) == 0


def test_every_flag_has_a_row() -> None:
    proved = {
        (setting_command, setting.flag)
        for setting in SETTINGS
        for setting_command in ("container create", "container run")
    }
    for row in ROWS:
        proved |= {(row.command, flag) for flag in (row.flags.split() or [""])}
    proved.add(("system dial-stdio", ""))
    missing = set()
    for line in (Path(__file__).parent / "docker_cli.txt").read_text().splitlines():
        command, _, flags = line.partition(":")
        missing |= {(command, flag) for flag in (flags.split() or [""])} - proved
    assert missing == set()


def test_every_flag_has_a_golden_file() -> None:
    lines = [(row.command, row.line, set(row.flags.split())) for row in ROWS]
    for setting in SETTINGS:
        for command in ("create", "run"):
            line = f"{command} --name it {setting.arguments} busybox true"
            lines.append((f"container {command}", line, {setting.flag}))
    missing = [
        line
        for command, line, flags in lines
        if GOLDEN.get(command, line) is None and line not in DIFFERS and not flags & NEWER
    ]
    assert missing == []
    assert set(DIFFERS) <= {line for _, line, _ in lines}
