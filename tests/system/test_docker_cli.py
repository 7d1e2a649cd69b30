"""The unmodified docker CLI against our socket: the whole story, and its terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dockerd import PEERS
from dockerd import program as docker_of_peers
from harness import Daemon, until

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker CLI")


def text(daemon: Daemon, *arguments: str, code: int = 0, input: bytes | None = None) -> str:
    """Standard output of a docker command that ends with ``code``."""
    done = daemon.docker(*arguments, input=input)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode().rstrip("\n")


def failure(daemon: Daemon, *arguments: str, code: int) -> str:
    """Standard error of a docker command that ends with ``code``."""
    done = daemon.docker(*arguments)
    assert done.returncode == code, done.stderr.decode()
    return done.stderr.decode()


class Terminal:
    """A docker command on a terminal of its own."""

    def __init__(self, daemon: Daemon, *arguments: str, rows: int = 33, columns: int = 101) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            ["docker", "-H", daemon.url, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, wanted: bytes, seconds: float = 20) -> bytes:
        """Read until ``wanted`` has come; return what came before it."""
        deadline = time.monotonic() + seconds
        while wanted not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], self.seen
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                assert wanted in self.seen, self.seen
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def wait(self) -> int:
        try:
            while select.select([self.master], [], [], 20)[0] and os.read(self.master, 65536):
                continue
        except OSError:
            pass
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.close()


def test_story(daemon: Daemon, tmp_path: Path) -> None:
    assert text(daemon, "run", "--name", "first", "busybox", "sh", "-c", "echo data > /file") == ""
    digest = text(daemon, "commit", "-m", "has data", "-a", "someone", "first", "story:v2")
    assert digest.startswith("sha256:")
    assert text(daemon, "run", "--rm", "story:v2", "cat", "/file") == "data"
    assert "story" in text(daemon, "images", "--format", "{{.Repository}}:{{.Tag}}")
    (tmp_path / "Dockerfile").write_text(
        "FROM story:v2\nWORKDIR /app\nCOPY page .\nENV PORT=8000\nRUN cat /file page > both\n"
        'EXPOSE 8000\nCMD ["sh", "-c", "echo serving $PORT; sleep 1000"]\n'
    )
    (tmp_path / "page").write_text("page\n")
    os.environ["DOCKER_BUILDKIT"] = "0"
    try:
        output = text(daemon, "build", "-t", "app:1", str(tmp_path))
    finally:
        del os.environ["DOCKER_BUILDKIT"]
    assert "Step 7/7 : CMD" in output and "Successfully tagged app:1" in output
    id = text(daemon, "run", "-d", "--name", "web", "-p", "127.0.0.1::8000", "app:1")
    assert len(id) == 64
    assert text(daemon, "ps", "--format", "{{.Names}} {{.Image}} {{.State}}") == "web app:1 running"
    assert until(lambda: text(daemon, "logs", "web") == "serving 8000")
    assert text(daemon, "exec", "web", "cat", "both") == "data\npage"
    assert text(daemon, "port", "web").startswith("8000/tcp -> 127.0.0.1:")
    assert text(daemon, "stop", "-t", "0", "web") == "web"
    assert text(daemon, "rm", "web", "first") == "web\nfirst"
    assert "sha256:" in text(daemon, "rmi", "app:1", "story:v2")


def test_exit_codes(daemon: Daemon) -> None:
    assert text(daemon, "run", "--rm", "busybox", "sh", "-c", "exit 5", code=5) == ""
    assert "executable file not found" in failure(daemon, "run", "--rm", "busybox", "no", code=127)
    assert "permission denied" in failure(daemon, "run", "--rm", "busybox", "/etc/group", code=126)
    text(daemon, "run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?", code=143)
    failure(daemon, "run", "--rm", "-m", "1m", "busybox", "true", code=125)
    assert text(daemon, "ps", "-aq") == ""


def test_standard_input_is_exact(daemon: Daemon) -> None:
    # Detach keys mean nothing where there is no terminal.
    data = b"\x10\x11" + os.urandom(3 << 20)
    done = daemon.docker("run", "--rm", "-i", "busybox", "cat", input=data)
    assert done.stdout == data


def test_terminal_size_and_detach(daemon: Daemon, terminals: list[Terminal]) -> None:
    terminal = Terminal(daemon, "run", "-it", "--name", "tty", "busybox", "sh")
    terminals.append(terminal)
    terminal.expect(b"/ # ")
    terminal.send(b"stty size\r")
    terminal.expect(b"33 101")

    def resized() -> bool:
        # The CLI may not have listened for the signal yet: change the size until it does.
        terminal.resize(44, 56)
        terminal.resize(44, 55)
        return _size(terminal) == b"44 55"

    assert until(resized)
    terminal.send(b"\x10\x11")
    assert terminal.wait() == 0
    assert text(daemon, "ps", "-q", "--no-trunc", "--filter", "name=tty") != ""
    again = Terminal(daemon, "attach", "tty")
    terminals.append(again)
    again.send(b"\rexit 7\r")
    assert again.wait() == 7


def _size(terminal: Terminal) -> bytes:
    terminal.send(b"echo size:$(stty size):\r")
    terminal.expect(b"\nsize:")
    return terminal.expect(b":")


# Not one long command: a signal that comes between its fork and its exec would be lost.
INTERRUPTIBLE = "trap 'exit 9' INT; echo on; while :; do sleep 0.05; done"


def test_interrupt_reaches_the_process(daemon: Daemon, terminals: list[Terminal]) -> None:
    terminal = Terminal(daemon, "run", "-it", "--rm", "busybox", "sh", "-c", INTERRUPTIBLE)
    terminals.append(terminal)
    terminal.expect(b"on")
    terminal.send(b"\x03")
    assert terminal.wait() == 9


def test_exec_on_a_terminal(daemon: Daemon, terminals: list[Terminal]) -> None:
    text(daemon, "run", "-d", "--name", "box", "busybox", "sleep", "1000")
    terminal = Terminal(daemon, "exec", "-it", "box", "sh")
    terminals.append(terminal)
    terminal.expect(b"/ # ")
    terminal.send(b"stty size; tty; exit 4\r")
    terminal.expect(b"33 101")
    terminal.expect(b"/dev/pts/")
    assert terminal.wait() == 4


def test_signals_are_proxied(daemon: Daemon) -> None:
    process = subprocess.Popen(
        ["docker", "-H", daemon.url, "run", "--name", "sig", "busybox", "sh", "-c",
         "trap 'exit 6' TERM; echo on; while :; do sleep 0.05; done"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    process.terminate()
    assert process.wait(20) == 6


def test_logs_follow(daemon: Daemon) -> None:
    text(daemon, "run", "-d", "-i", "--name", "talk", "busybox", "sh", "-c",
         "echo one; read x; echo two")  # fmt: skip
    follower = subprocess.Popen(
        ["docker", "-H", daemon.url, "logs", "-f", "talk"], stdout=subprocess.PIPE
    )
    assert follower.stdout is not None and follower.stdout.readline() == b"one\n"
    process = subprocess.Popen(
        ["docker", "-H", daemon.url, "attach", "talk"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    process.communicate(b"go\n", timeout=20)
    assert follower.stdout.readline() == b"two\n"
    assert follower.wait(20) == 0
    assert text(daemon, "logs", "-n", "1", "talk") == "two"
    assert text(daemon, "logs", "-t", "talk").split()[0].endswith("Z")


def test_inspect_has_all_of_dockers_fields(daemon: Daemon) -> None:
    text(daemon, "create", "--name", "seen", "-p", "80", "-e", "A=b", "-l", "x=y", "busybox")
    document: dict[str, Any] = json.loads(text(daemon, "inspect", "seen"))[0]
    wanted = (
        "Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name "
        "RestartCount Driver Platform MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig "
        "GraphDriver Mounts Config NetworkSettings"
    )
    assert set(wanted.split()) <= document.keys()
    assert document["State"]["Status"] == "created"
    assert document["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
    assert document["HostConfig"]["NetworkMode"] == "bridge"
    assert document["Config"]["Labels"] == {"x": "y"}
    assert document["Config"]["Cmd"] == ["sh"]
    assert document["NetworkSettings"]["Ports"] == {}


def test_other_commands(daemon: Daemon) -> None:
    text(daemon, "run", "-d", "--name", "one", "busybox", "sleep", "1000")
    assert "sleep 1000" in text(daemon, "top", "one")
    assert "PID" in text(daemon, "top", "one", "-o", "pid,comm")
    stats = text(daemon, "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}")
    assert stats == "one 1"
    assert text(daemon, "update", "-m", "64m", "--memory-swap", "128m", "one") == "one"
    assert text(daemon, "rename", "one", "two") == ""
    assert text(daemon, "pause", "two") == "two"
    assert text(daemon, "unpause", "two") == "two"
    assert text(daemon, "kill", "two") == "two"
    assert text(daemon, "wait", "two") == "137"
    assert text(daemon, "start", "two") == "two"
    assert text(daemon, "restart", "-t", "0", "two") == "two"
    assert text(daemon, "rm", "-f", "two") == "two"
    assert "Server Version" in text(daemon, "info")
    assert text(daemon, "events", "--since", "1m", "--until", "0s", "--filter", "event=destroy")


@pytest.mark.proves("POST /grpc")
def test_buildkit_clients_are_told_what_to_do(daemon: Daemon, tmp_path: Path) -> None:
    """With buildx installed, the docker CLI builds by BuildKit's protocol unless told otherwise."""
    plugin = PEERS / "usr/libexec/docker/cli-plugins/docker-buildx"
    program = docker_of_peers()
    if program is None or not plugin.exists():
        pytest.skip("needs scripts/peers")
    plugins = tmp_path / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / plugin.name).symlink_to(plugin)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": daemon.url,
                   "DOCKER_CONFIG": str(tmp_path / "config")}  # fmt: skip

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [program, *arguments, str(tmp_path)],
            env={**environment, **more}, capture_output=True, timeout=60,
        )  # fmt: skip

    for command in (["build"], ["buildx", "build"]):
        done = run(*command, "-t", "told")
        assert done.returncode != 0
        assert b"DOCKER_BUILDKIT=0" in done.stderr and b"sampan build" in done.stderr
        # It did not try to bring a builder of its own.
        assert b"booting buildkit" not in done.stderr
    assert run("build", "-t", "told", DOCKER_BUILDKIT="0").returncode == 0
    assert text(daemon, "run", "--rm", "told", "echo", "on") == "on"
