"""The ``sampan`` command against a real daemon: what only a real one can show."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, until

SAMPAN = [sys.executable, "-P", "-c", "from sampan.cli.main import entry; entry()"]
DEADLINE = 30.0


def environment(daemon: Daemon) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    return {
        **kept,
        "SAMPAN_RUN_DIR": str(daemon.run),
        "SAMPAN_STATE_DIR": str(daemon.state),
        "DOCKER_CONFIG": str(daemon.root / "config"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def sampan(
    daemon: Daemon, *words: str, input: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SAMPAN, *words],
        input=input,
        stdin=None if input is not None else subprocess.DEVNULL,
        capture_output=True,
        timeout=DEADLINE,
        env=environment(daemon),
    )


def text(daemon: Daemon, *words: str, code: int = 0, input: bytes | None = None) -> str:
    done = sampan(daemon, *words, input=input)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, daemon: Daemon, *words: str, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            [*SAMPAN, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(daemon),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, wanted: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while wanted not in self.seen:
            assert time.monotonic() < deadline, f"{wanted!r} not in {self.seen!r}"
            if select.select([self._master], [], [], 0.5)[0]:
                try:
                    self.seen += os.read(self._master, 65536).decode("utf-8", "replace")
                except OSError:
                    assert wanted in self.seen, f"{wanted!r} not in {self.seen!r}"

    def end(self) -> int:
        code = self.process.wait(DEADLINE)
        os.close(self._master)
        return code


def test_output_streams_and_exit_codes(daemon: Daemon) -> None:
    done = sampan(daemon, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert text(daemon, "run", "--rm", "busybox", "nosuch", code=127) == ""
    assert text(daemon, "run", "--rm", "busybox", "/etc", code=126) == ""
    assert (
        text(daemon, "run", "--rm", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?", code=137)
        == ""
    )
    assert text(daemon, "ps", "-aq") == ""


def test_input_is_carried_to_its_end(daemon: Daemon) -> None:
    data = os.urandom(3 << 20)
    done = sampan(daemon, "run", "-i", "--rm", "busybox", "cat", input=data)
    assert (done.returncode, done.stdout == data) == (0, True)
    name = text(daemon, "run", "-d", "busybox", "sleep", "60").strip()
    done = sampan(daemon, "exec", "-i", name, "sh", "-c", "cat; exit 7", input=data)
    assert (done.returncode, done.stdout == data) == (7, True)


def test_a_commit_shows_how_far_it_is(daemon: Daemon) -> None:
    fill = "dd if=/dev/urandom of=/big bs=1M count=6"
    assert text(daemon, "run", "--name", "full", "busybox", "sh", "-c", fill) == ""
    terminal = Terminal(daemon, "commit", "full", "t/bar")
    terminal.expect("Committing [")
    terminal.expect("sha256:")
    terminal.expect(daemon.client.images.get("t/bar").id)
    assert terminal.end() == 0


def test_a_terminal(daemon: Daemon) -> None:
    terminal = Terminal(
        daemon, "run", "-it", "--name", "term", "busybox", "sh", rows=33, columns=77
    )
    terminal.expect("# ")
    terminal.type("stty size\r")
    terminal.expect("33 77")
    terminal.resize(44, 55)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.type("while [ \"$(stty size)\" != '44 55' ]; do :; done; echo re'sized'\r")
    terminal.expect("resized")
    terminal.type("\x10\x11")
    assert terminal.end() == 0
    assert text(daemon, "ps", "--format", "{{.Names}}") == "term\n"
    terminal = Terminal(daemon, "attach", "term")
    terminal.type("echo 'b''ack'; exit 5\r")
    terminal.expect("back")
    assert terminal.end() == 5
    assert "resized" in text(daemon, "logs", "term")


def test_signals_are_passed_on(daemon: Daemon) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*SAMPAN, "run", "--rm", "busybox", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(daemon),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=DEADLINE)[0] == b"caught\n"
    assert process.returncode == 9


def test_the_third_plea_ends_the_client(daemon: Daemon) -> None:
    process = subprocess.Popen(
        [*SAMPAN, "run", "--name", "deaf", "busybox", "sh", "-c", "trap '' INT; echo r; sleep 60"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(daemon),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"r\n"

    def plead() -> bool:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        return process.poll() is not None

    until(plead)
    assert b"forcefully exiting" in process.communicate()[1]
    assert text(daemon, "inspect", "-f", "{{.State.Running}}", "deaf") == "true\n"


def test_build_commit_save_and_load(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN echo built > /file\nCOPY a.txt /\nENV X=1\nCMD cat /file /a.txt\n"
    )
    (tmp_path / "a.txt").write_text("copied\n")
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "secret").write_text("no")
    out = text(daemon, "build", "-t", "made:1", str(tmp_path))
    assert "Successfully tagged made:1" in out
    assert text(daemon, "run", "--rm", "made:1") == "built\ncopied\n"
    name = text(daemon, "run", "-d", "made:1", "sh", "-c", "echo more > /more").strip()
    assert text(daemon, "wait", name) == "0\n"
    assert "A /more\n" in text(daemon, "diff", name)
    identifier = text(daemon, "commit", "-m", "has more", "-a", "me", name, "made:2").strip()
    assert text(daemon, "inspect", "-f", "{{.Id}} {{.Comment}}", "made:2") == (
        f"{identifier} has more\n"
    )
    archive = tmp_path / "saved.tar"
    text(daemon, "save", "-o", str(archive), "made:2")
    text(daemon, "rm", name)
    text(daemon, "rmi", "made:2")
    assert text(daemon, "load", "-i", str(archive)) == "Loaded image: made:2\n"
    assert text(daemon, "images", "-q", "--no-trunc", "made:2") == f"{identifier}\n"
    assert text(daemon, "run", "--rm", "made:2", "cat", "/more") == "more\n"
    done = sampan(daemon, "build", "-", input=b"FROM busybox\nRUN exit 4\n")
    assert done.returncode == 4, done.stderr


def test_copies(daemon: Daemon, tmp_path: Path) -> None:
    name = text(daemon, "run", "-d", "busybox", "sleep", "60").strip()
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("x")
    (tree / "link").symlink_to("sub/file")
    text(daemon, "cp", str(tree), f"{name}:/tmp")
    text(daemon, "cp", f"{tree}/.", f"{name}:/root")
    assert text(daemon, "exec", name, "cat", "/tmp/tree/link", "/root/sub/file") == "xx"
    text(daemon, "cp", f"{name}:/tmp/tree", str(tmp_path / "back"))
    assert (tmp_path / "back" / "sub" / "file").read_text() == "x"
    assert (tmp_path / "back" / "link").readlink() == Path("sub/file")
    archive = sampan(daemon, "cp", f"{name}:/tmp/tree", "-").stdout
    assert sampan(daemon, "cp", "-", f"{name}:/home", input=archive).returncode == 0
    assert text(daemon, "exec", name, "cat", "/home/tree/sub/file") == "x"


def test_the_bootstrapped_busybox(daemon: Daemon) -> None:
    identifier = text(daemon, "image", "bootstrap", "-q", "-t", "bb:1", "busybox").strip()
    assert identifier.startswith("sha256:")
    assert text(daemon, "run", "--rm", "bb:1", "sh", "-c", "id -u; ls /usr/bin/env") == (
        "0\n/usr/bin/env\n"
    )


def test_the_story_in_python(daemon: Daemon, tmp_path: Path) -> None:
    import sampan as library
    from sampan.client.containers import ContainerFailed
    from sampan.errors import NotFound

    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo hi > /f\n")
    with library.connect(daemon.url) as client:
        image = client.images.build(tmp_path, tag="story:1")
        assert client.containers.run("story:1", ["cat", "/f"]) == b"hi\n"
        container = client.containers.start("story:1", ["sleep", "60"], name="story")
        assert container.inspect().state.running
        result = container.execute("echo a; echo b >&2; exit 3")
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"a\n", b"b\n")
        with pytest.raises(ContainerFailed, match="exited with 4"):
            client.containers.run("busybox", "exit 4")
        container.kill()
        assert container.wait() == 137
        container.remove()
        with pytest.raises(NotFound):
            client.containers.get("story")
        image.remove()


@pytest.fixture
def cold() -> Iterator[Daemon]:
    """Directories without a daemon; whatever is started there is ended."""
    root = Path(tempfile.mkdtemp(prefix="smc"))
    daemon = Daemon(root)
    yield daemon
    try:
        os.kill(pid_of(daemon), signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid_of(daemon)}").exists())
    except (FileNotFoundError, ProcessLookupError):
        pass
    daemon.clean()
    shutil.rmtree(root, ignore_errors=True)


def pid_of(daemon: Daemon) -> int:
    facts: dict[str, Any] = json.loads((daemon.run / "daemon.json").read_text())
    return int(facts["pid"])


def test_twenty_clients_start_one_daemon(cold: Daemon) -> None:
    clients = [
        subprocess.Popen(
            [*SAMPAN, "version", "--format", "{{.Server.Version}}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(cold),
        )
        for _ in range(20)
    ]
    answers = [client.communicate(timeout=120) for client in clients]
    assert {client.returncode for client in clients} == {0}, answers
    assert len({out for out, _ in answers}) == 1
    log = (cold.run / "daemon.log").read_text()
    assert log.count(" serves unix://") == 1
    assert not (cold.run / "daemon.log.1").exists()


def test_a_daemon_that_cannot_start_says_why(cold: Daemon) -> None:
    cold.state.mkdir(parents=True)
    (cold.state / "meta.db").write_bytes(b"this is no database" * 1000)
    done = sampan(cold, "ps")
    assert done.returncode == 1
    said = done.stderr.decode()
    assert said.startswith("the sampan daemon did not start: ")
    assert said.count("\n") == 1 and f"(log: {cold.run}/daemon.log)" in said


def test_a_client_waits_for_a_daemon_that_is_stopping(cold: Daemon) -> None:
    text(cold, "version")
    first = pid_of(cold)
    os.kill(first, signal.SIGTERM)
    # As soon as the socket refuses, and while the old process may still hold its directories.
    until(lambda: not _listens(cold))
    assert text(cold, "version", "--format", "{{.Server.Os}}") == "linux\n"
    assert pid_of(cold) != first


def _listens(daemon: Daemon) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(daemon.run / "sampan.sock")) == 0


def test_a_lock_is_waited_for_unless_its_holder_serves(tmp_path: Path) -> None:
    from sampan.daemon import locks
    from sampan.errors import Conflict

    held = locks.take(tmp_path / "lock", "directory")
    locks.mark(held, locks.SERVING)
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        locks.take(tmp_path / "lock", "directory")
    locks.mark(held, locks.STOPPING)
    releaser = threading.Timer(0.2, os.close, [held])
    releaser.start()
    os.close(locks.take(tmp_path / "lock", "directory"))
    releaser.join()


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    from sampan.daemon import locks
    from sampan.errors import SampanError

    (tmp_path / "file").touch()
    with pytest.raises(SampanError, match=r"the state directory .* cannot be used: .*; make it"):
        locks.take(tmp_path / "file" / "lock", "state directory")


def test_mount_points_are_no_changes(daemon: Daemon) -> None:
    name = text(daemon, "run", "-d", "-v", "/data", "busybox", "touch", "/root/x").strip()
    assert text(daemon, "wait", name) == "0\n"
    assert text(daemon, "diff", name) == "A /data\nC /root\nA /root/x\n"
    text(daemon, "commit", name, "plain:1")
    layers = json.loads(text(daemon, "inspect", "-f", "{{json .RootFS.Layers}}", "plain:1"))
    assert len(layers) == 2
    archive = sampan(daemon, "save", "plain:1").stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as saved:
        member = saved.extractfile("blobs/sha256/" + layers[1].removeprefix("sha256:"))
        assert member is not None
        with tarfile.open(fileobj=member) as layer:
            assert sorted(layer.getnames()) == ["data", "root", "root/x"]
    exported = sampan(daemon, "export", name).stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        assert {"etc/hosts", "etc/hostname", "etc/resolv.conf"} <= set(tar.getnames())
    text(daemon, "rm", "-v", name)
