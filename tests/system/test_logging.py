"""Log drivers and their options, as Docker's clients use them."""

from __future__ import annotations

import calendar
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from docker.errors import APIError
from docker.types import LogConfig
from harness import Daemon, running, until


class Datagrams:
    """A receiver of datagrams that keeps them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received: list[bytes] = []
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while data := self.sock.recv(1 << 20):
            self.received.append(data)

    def wait_for(self, text: bytes) -> bytes:
        assert until(lambda: any(text in data for data in self.received)), self.received
        return next(data for data in self.received if text in data)


@pytest.fixture
def udp() -> Iterator[Datagrams]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    yield Datagrams(sock)
    sock.close()


def run(daemon: Daemon, command: str, driver: str, **options: Any) -> Any:
    """A container that has run to its end, with log options (dashes written as underscores)."""
    config = {name.replace("_", "-"): value for name, value in options.pop("config", {}).items()}
    log = LogConfig(type=driver, config=config)
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", command], detach=True, log_config=log, **options
    )
    container.wait()
    return container


def syslog_options(udp: Datagrams, **more: str) -> dict[str, str]:
    return {"syslog_address": f"udp://127.0.0.1:{udp.sock.getsockname()[1]}", **more}


def test_syslog(daemon: Daemon, udp: Datagrams) -> None:
    options = syslog_options(udp, syslog_facility="local3", syslog_format="rfc5424")
    options["tag"] = "{{.ImageName}}/{{.Name}}/{{.ID}}"
    container = run(daemon, "echo to-out; echo to-err >&2", "syslog", config=options)
    out, err = udp.wait_for(b"to-out"), udp.wait_for(b"to-err")
    tag = f"busybox/{container.name}/{container.id[:12]}".encode()
    assert out.startswith(b"<158>1 ")
    assert err.startswith(b"<155>1 ")
    assert tag in out
    config = container.attrs["HostConfig"]["LogConfig"]
    assert config["Type"] == "syslog"
    assert config["Config"]["syslog-facility"] == "local3"
    # The output is kept here as well, for docker logs.
    assert container.logs() == b"to-out\nto-err\n"
    assert container.logs(stderr=False, tail=1) == b"to-out\n"


def test_without_the_cache_there_is_nothing_to_read(daemon: Daemon, udp: Datagrams) -> None:
    container = run(
        daemon, "echo word", "syslog", config=syslog_options(udp, cache_disabled="true")
    )
    udp.wait_for(b"word")
    with pytest.raises(APIError, match="configured logging driver does not support reading"):
        container.logs()


def test_a_container_that_starts_again_logs_on(daemon: Daemon, udp: Datagrams) -> None:
    container = run(daemon, "echo once-$(date +%s%N)", "syslog", config=syslog_options(udp))
    container.restart()
    container.wait()
    assert until(lambda: len([data for data in udp.received if b"once" in data]) == 2)
    assert container.logs().count(b"once") == 2


def test_journald(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "journal"))
    journal = Datagrams(sock)
    for daemon in running("--journal-socket", str(tmp_path / "journal")):
        container = run(
            daemon,
            "echo for the journal; echo bad >&2",
            "journald",
            config={"labels": "some.label,none", "env_regex": "^OS_", "tag": "T-{{.FullID}}"},
            labels={"some.label": "x", "other": "y"},
            environment={"OS_NAME": "linux", "HIDDEN": "z"},
        )
        entry = journal.wait_for(b"for the journal").decode()
        assert f"CONTAINER_ID_FULL={container.id}\n" in entry
        assert f"CONTAINER_NAME={container.name}\n" in entry
        assert f"CONTAINER_TAG=T-{container.id}\n" in entry
        assert "SOME_LABEL=x\n" in entry
        assert "OS_NAME=linux\n" in entry
        assert "IMAGE_NAME=busybox\n" in entry
        assert "PRIORITY=6\n" in entry
        assert "HIDDEN" not in entry
        assert b"PRIORITY=3\n" in journal.wait_for(b"MESSAGE=bad")
        assert container.logs() == b"for the journal\nbad\n"
        container.remove()
    sock.close()


JOURNALD = Path("/lib/systemd/systemd-journald")
_ALONE = """
mount --make-rprivate / && mount -t tmpfs none /run &&
mkdir -p /run/systemd/journal /run/log/journal &&
mount --bind "$1" /run/systemd/journal && mount --bind "$2" /run/log/journal &&
exec "$3"
"""


@pytest.fixture
def systemd_journal(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A real journald with directories of its own: (its sockets, its journal)."""
    if not JOURNALD.exists() or shutil.which("journalctl") is None:
        pytest.skip("systemd-journald is not installed")
    sockets, kept = tmp_path / "sockets", tmp_path / "journal"
    for directory in (sockets, kept):
        directory.mkdir()
    command = ["unshare", "-m", "sh", "-c", _ALONE, "sh", sockets, kept, JOURNALD]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert until(lambda: (sockets / "dev-log").exists() and (sockets / "socket").exists())
    yield sockets, kept
    process.terminate()
    process.wait(20)


def test_a_real_journal_and_its_syslog(systemd_journal: tuple[Path, Path]) -> None:
    sockets, kept = systemd_journal

    def entries(**fields: str) -> list[dict[str, Any]]:
        matches = [f"{name}={value}" for name, value in fields.items()]
        command = ["journalctl", "-q", "-a", "-D", str(kept), "-o", "json", *matches]
        answer = subprocess.run(command, capture_output=True, check=False).stdout
        return [json.loads(line) for line in answer.splitlines()]

    for daemon in running("--journal-socket", str(sockets / "socket")):
        command = "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' x; echo"
        run(daemon, command, "journald", name="to-journal").remove()
        found = until(lambda: len(entries(CONTAINER_NAME="to-journal")) == 4) and entries(
            CONTAINER_NAME="to-journal"
        )
        (error,) = (entry for entry in found if entry["PRIORITY"] == "3")
        first, *long = (entry for entry in found if entry["PRIORITY"] == "6")
        assert (first["MESSAGE"], error["MESSAGE"]) == ("one", "two")
        assert "".join(entry["MESSAGE"] for entry in long) == "x" * 20000
        assert [entry["CONTAINER_PARTIAL_LAST"] for entry in long] == ["false", "true"]
        options = {"syslog_address": f"unixgram://{sockets}/dev-log", "tag": "{{.Name}}"}
        options["syslog_facility"] = "local5"
        run(daemon, "echo by syslog", "syslog", config=options, name="to-syslog").remove()
        (entry,) = until(lambda: entries(SYSLOG_IDENTIFIER="to-syslog"))
        assert entry["MESSAGE"] == "by syslog"
        assert (entry["SYSLOG_FACILITY"], entry["PRIORITY"]) == ("21", "6")


def test_fluentd_outlives_the_daemon(own_daemon: Daemon) -> None:
    """The keeper's shipper delivers while no daemon runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        container = own_daemon.client.containers.run(
            "busybox",
            ["sh", "-c", "read a; echo $a; read b; echo $b"],
            detach=True,
            stdin_open=True,
            log_config=LogConfig(type="fluentd", config={"fluentd-address": address}),
        )
        connection, _ = server.accept()
        connection.settimeout(20)
        stream = container.attach_socket(params={"stdin": 1, "stream": 1})
        stream._sock.sendall(b"first\n")
        tag, _, record = msgspec.msgpack.decode(connection.recv(65536))
        assert tag == container.id[:12]
        assert record == {
            "container_id": container.id,
            "container_name": f"/{container.name}",
            "source": "stdout",
            "log": "first",
        }
        own_daemon.stop(9)
        stream._sock.sendall(b"second\n")
        assert msgspec.msgpack.decode(connection.recv(65536))[2]["log"] == "second"
        assert connection.recv(1) == b""
        connection.close()
    own_daemon.start()
    container = own_daemon.client.containers.get(container.id)
    assert until(lambda: own_daemon.client.containers.get(container.id).status == "exited")
    assert container.logs() == b"first\nsecond\n"
    container.remove()


def test_a_receiver_that_is_not_there(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {"fluentd-address": f"127.0.0.1:{port}"}
    container = daemon.client.containers.create(
        "busybox", log_config=LogConfig(type="fluentd", config=config)
    )
    with pytest.raises(APIError, match="failed to initialize logging driver: dial tcp"):
        container.start()
    # It starts all the same where the receiver may come later.
    options = {"fluentd_address": config["fluentd-address"], "fluentd_async": "true"}
    assert run(daemon, "echo x", "fluentd", config=options).logs() == b"x\n"


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("nosuch", {}, "logger: no log driver named 'nosuch' is registered"),
        ("syslog", {"max-size": "1m"}, "unknown log opt 'max-size' for syslog log driver"),
        ("local", {"labels": "a"}, "unknown log opt 'labels' for local log driver"),
        ("syslog", {"syslog-address": "http://x"}, "unsupported scheme: 'http'"),
        ("syslog", {"syslog-facility": "nosuch"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "json"}, "Invalid syslog format"),
        ("fluentd", {"fluentd-address": "tcp://h:x"}, "invalid port in address"),
        ("fluentd", {"fluentd-async": "maybe"}, "invalid value for option fluentd-async: maybe"),
        ("fluentd", {"fluentd-retry-wait": "soon"}, "invalid duration"),
        ("journald", {"labels-regex": "("}, "error parsing regexp"),
        ("json-file", {"mode": "sometimes"}, "logger: logging mode not supported: sometimes"),
        (
            "json-file",
            {"max-buffer-size": "4m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("json-file", {"tag": "{{.Nothing}}"}, "invalid log opt 'tag'"),
        ("json-file", {"tag": "{{"}, "invalid log opt 'tag'"),
        ("local", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("local", {"compress": "perhaps"}, "invalid value for option compress: perhaps"),
        ("local", {"compress": "true", "max-file": "1"}, "compress cannot be true when max-file"),
        ("json-file", {"compress": "true", "max-file": "3"}, "or max-size is not set"),
        (
            "syslog",
            {"cache-compress": "true", "cache-max-file": "1"},
            "cache-compress cannot be true when cache-max-file",
        ),
    ],
)
def test_refused(daemon: Daemon, driver: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(APIError, match=re.escape(text)) as error:
        daemon.client.containers.create(
            "busybox", log_config=LogConfig(type=driver, config=options)
        )
    assert error.value.status_code == 400


def test_details_of_json_files(daemon: Daemon) -> None:
    container = run(
        daemon,
        "echo word",
        "json-file",
        config={"labels_regex": "^a", "env": "E,NONE", "tag": "the {{.Name}}"},
        labels={"a.b": "c d", "x": "y"},
        environment={"E": "1&2"},
        name="detailed",
    )
    answer = daemon.client.api._get(
        daemon.client.api._url("/containers/{0}/logs", container.id),
        params={"stdout": 1, "details": 1},
    )
    assert answer.content[8:] == b"E=1%262,a.b=c+d,tag=the+detailed word\n"
    path = next((daemon.state / "containers" / container.id).glob("*-json.log"))
    attributes = json.loads(path.read_text())["attrs"]
    assert attributes == {"E": "1&2", "a.b": "c d", "tag": "the detailed"}


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("local", {}),
        ("local", {"max_size": "8k", "max_file": "100", "compress": "true"}),
        ("json-file", {}),
        ("json-file", {"max_size": "8k", "max_file": "100", "compress": "true"}),
        ("syslog", {}),
        ("syslog", {"cache_max_size": "8k", "cache_max_file": "100", "cache_compress": "true"}),
    ],
)
def test_what_is_read_back(
    daemon: Daemon, udp: Datagrams, driver: str, options: dict[str, str]
) -> None:
    if driver == "syslog":
        options = syslog_options(udp, **options)
    script = "for i in $(seq 30); do seq $((i*40-39)) $((i*40)); usleep 3000; done"
    container = run(
        daemon, f"{script}; echo bad >&2; usleep 200000; printf end", driver, config=options
    )
    lines = [b"%d\n" % number for number in range(1, 1201)]
    assert container.logs() == b"".join(lines) + b"bad\nend"
    assert container.logs(stdout=False) == b"bad\n"
    assert container.logs(stderr=False, tail=3) == b"".join(lines[-2:]) + b"end"
    for count in (0, 1, 2, 100, 1201, 5000):
        expected = [*lines, b"bad\n", b"end"][-count:] if count else []
        assert container.logs(tail=count) == b"".join(expected)
    stamped = container.logs(timestamps=True).splitlines(keepends=True)
    assert [line.split(b" ", 1)[1] for line in stamped] == [*lines, b"bad\n", b"end"]
    times = [line.split(b" ", 1)[0].decode() for line in stamped]
    assert times[:-1] == sorted(times[:-1])
    # Read in pieces or line by line, marked lines are the same.
    assert [*stamped] == b"".join(_logs(daemon, container, timestamps=1, lines=1)).splitlines(
        keepends=True
    )
    first, last = times[400], times[800]
    within = [line for line, at in zip(stamped, times, strict=True) if first <= at <= last]
    bounds = {"since": _seconds(first), "until": _seconds(last)}
    assert b"".join(_logs(daemon, container, timestamps=1, **bounds)) == b"".join(within)
    plain = b"".join(line.split(b" ", 1)[1] for line in within)
    assert b"".join(_logs(daemon, container, **bounds)) == plain
    assert b"".join(_logs(daemon, container, **bounds, tail=3)) == b"".join(
        line.split(b" ", 1)[1] for line in within[-3:]
    )


def _seconds(stamp: str) -> str:
    """A stamp of a log as clients send it, with nanoseconds."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{calendar.timegm(time.strptime(whole, '%Y-%m-%dT%H:%M:%S'))}.{fraction:0<9}"


def _logs(daemon: Daemon, container: Any, **query: object) -> list[bytes]:
    """What the frames of the container's log hold."""
    api = daemon.client.api
    url = api._url("/containers/{0}/logs", container.id)
    body = api._get(url, params={"stdout": 1, "stderr": 1, **query}).content
    pieces = []
    while body:
        end = 8 + int.from_bytes(body[4:8], "big")
        pieces.append(body[8:end])
        body = body[end:]
    return pieces


@pytest.mark.parametrize("driver", ["local", "json-file"])
def test_not_blocking(daemon: Daemon, driver: str) -> None:
    """Without a flood nothing is dropped, and all is there when the container has ended."""
    options = {"mode": "non-blocking", "max_buffer_size": "2m"}
    container = run(daemon, "seq 1 20000", driver, config=options)
    assert container.logs() == b"".join(b"%d\n" % number for number in range(1, 20001))


def test_not_blocking_and_over_at_once(daemon: Daemon) -> None:
    """A container may end while the process that started it is still ending."""
    for number in range(5):
        container = run(daemon, f"exit {number}", "json-file", config={"mode": "non-blocking"})
        assert container.wait()["StatusCode"] == number
        container.reload()
        assert not container.attrs["State"]["Error"]


def test_a_receiver_that_stalls(daemon: Daemon) -> None:
    """In the blocking mode the container waits for it, in the other it does not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        config = {"fluentd-address": address, "fluentd-max-retries": "0"}
        dropping = {**config, "mode": "non-blocking", "max-buffer-size": "64k"}
        waiting, going = (
            daemon.client.containers.run(
                "busybox",
                ["sh", "-c", "seq 1 600000; echo done > /done; sleep 1000"],
                detach=True,
                log_config=LogConfig(type="fluentd", config=options),
            )
            for options in (config, dropping)
        )
        connections = [server.accept()[0] for _ in range(2)]
        assert until(lambda: going.exec_run(["test", "-e", "/done"]).exit_code == 0)
        assert waiting.exec_run(["test", "-e", "/done"]).exit_code == 1
    for connection in connections:
        connection.close()
    # A receiver that has gone for good does not keep a container either.
    assert until(lambda: waiting.exec_run(["test", "-e", "/done"]).exit_code == 0)
    for container in (waiting, going):
        container.kill()
        container.wait(timeout=30)


def test_the_daemon_s_default_driver(udp: Datagrams) -> None:
    address = f"syslog-address=udp://127.0.0.1:{udp.sock.getsockname()[1]}"
    flags = ("--log-driver", "syslog", "--log-opt", address, "--log-opt", "tag=all-{{.Name}}")
    for daemon in running(*flags):
        assert daemon.client.info()["LoggingDriver"] == "syslog"
        container = daemon.client.containers.run(
            "busybox", ["echo", "by default"], detach=True, name="one"
        )
        container.wait()
        assert b"all-one[" in udp.wait_for(b"by default")
        config = container.attrs["HostConfig"]["LogConfig"]
        assert config == {
            "Type": "syslog",
            "Config": {
                "syslog-address": address.partition("=")[2],
                "tag": "all-{{.Name}}",
            },
        }
        other = run(daemon, "echo word", "json-file")
        assert other.logs() == b"word\n"
        assert other.attrs["HostConfig"]["LogConfig"]["Config"] == {}
        for made in (container, other):
            made.remove()
