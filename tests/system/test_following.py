"""Followers of a log, and streams of any size: nothing lost, nothing repeated, flat memory."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from docker.types import LogConfig
from harness import Daemon, until

MEGABYTES = int(os.environ.get("SAMPAN_STREAM_MB", "32"))
"""How much goes through standard input and output."""
SAMPAN = [sys.executable, "-P", "-c", "from sampan.cli.main import entry; entry()"]

# Each run writes 700 lines, going on where the one before ended; four runs, three failures.
WRITER = """
i=$(cat /n 2>/dev/null || echo 0); end=$((i+700))
while [ $i -lt $end ]; do
    i=$((i+1)); echo "line $i of some length, so that the files are rotated"
    [ $((i%20)) = 0 ] && usleep 10000
done
echo $i > /n; [ $i -ge 2800 ]
"""


def follower(daemon: Daemon, *words: str) -> subprocess.Popen[bytes]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")}
    environment = {
        **kept,
        "SAMPAN_HOST": daemon.url,
        "DOCKER_CONFIG": str(daemon.root / "config"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [*SAMPAN, "logs", "-f", *words], stdout=subprocess.PIPE, env=environment
    )


@pytest.mark.parametrize(
    ("driver", "compress"), [("local", "false"), ("local", "true"), ("json-file", "true")]
)
def test_across_rotation_restarts_and_the_daemon(
    own_daemon: Daemon, driver: str, compress: str
) -> None:
    daemon = own_daemon
    container = daemon.client.containers.run(
        "busybox",
        ["sh", "-c", WRITER],
        detach=True,
        name="writer",
        restart_policy={"Name": "on-failure"},
        log_config=LogConfig(
            type=driver, config={"max-size": "20k", "max-file": "40", "compress": compress}
        ),
    )
    process = follower(daemon, "writer")
    assert process.stdout is not None
    for number, at in ((signal.SIGKILL, 300), (signal.SIGTERM, 1200)):
        lines = [process.stdout.readline() for _ in range(at)]
        assert lines[-1]
        daemon.stop(number)
        daemon.start()
        if at == 300:
            first = lines
        else:
            first += lines
    rest = process.stdout.read()
    assert process.wait() == 0
    whole = b"".join(first) + rest
    numbers = [int(line.split()[1]) for line in whole.splitlines()]
    assert numbers == list(range(1, 2801))
    directory = daemon.state / "containers" / container.id
    assert len(list(directory.glob("*log*"))) > 3
    assert bool(list(directory.glob("*.gz"))) == (compress == "true")
    assert container.logs() == whole
    container.remove()


def talker(daemon: Daemon, name: str, script: str) -> tuple[Any, Any]:
    """A container that runs a script, and the connection to its input."""
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", script], detach=True, stdin_open=True, name=name
    )
    return container, container.attach_socket(params={"stdin": 1, "stream": 1})


def test_a_tail_goes_on_after_a_break(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container, stream = talker(
        daemon, "talker", "seq 1 100; read a; echo $a; read b; printf $b; read c; echo $c"
    )
    process = follower(daemon, "-n", "2", "talker")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == [b"99\n", b"100\n"]
    stream._sock.sendall(b"first\n")
    assert process.stdout.readline() == b"first\n"
    daemon.stop(signal.SIGKILL)
    stream._sock.sendall(b"second\n")
    daemon.start()
    stream._sock.sendall(b"third\n")
    assert process.stdout.readline() == b"secondthird\n"
    assert process.wait() == 0
    container.remove()


def test_the_clock_is_set_back_while_there_is_no_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container, stream = talker(daemon, "jumper", "echo ahead; read a; echo $a; read b; echo $b")
    (log,) = until(lambda: list((daemon.state / "containers" / container.id).glob("*log")))
    assert until(lambda: b"ahead" in log.read_bytes())
    with log.open("r+b") as file:
        # As if it had been written an hour from now.
        file.seek(8)
        time = int.from_bytes(file.read(8), "little") + 3600 * 10**9
        file.seek(8)
        file.write(time.to_bytes(8, "little"))
    process = follower(daemon, "--since", "1m", "jumper")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ahead\n"
    daemon.stop(signal.SIGKILL)
    stream._sock.sendall(b"second\n")
    assert until(lambda: b"second" in log.read_bytes())
    daemon.start()
    stream._sock.sendall(b"third\n")
    assert process.stdout.read() == b"second\nthird\n"
    assert process.wait() == 0
    container.remove()


def keeper_memory(daemon: Daemon, id: str) -> int:
    """The bytes of memory that are a container's keeper's own."""
    state = json.loads((daemon.run / "containers" / id / "state.json").read_bytes())
    for line in Path(f"/proc/{state['keeper_pid']}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def test_much_through_standard_input_and_output(daemon: Daemon) -> None:
    container = daemon.client.containers.create(
        "busybox", ["cat"], stdin_open=True, log_config=LogConfig(type="none")
    )
    params = {"stdin": 1, "stdout": 1, "stream": 1}
    stream = container.attach_socket(params=params)
    container.start()
    container.client.api.inspect_container(container.id)
    connection: Any = stream._sock
    before = keeper_memory(daemon, container.id)
    block = os.urandom(1 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        for number in range(MEGABYTES):
            piece = number.to_bytes(8, "big") + block
            sent.update(piece)
            connection.sendall(piece)

    sender = threading.Thread(target=send)
    sender.start()
    left, most, pending = MEGABYTES * (len(block) + 8), 0, bytearray()
    while left:
        pending += connection.recv(1 << 20)
        while len(pending) >= 8 and len(pending) >= (
            end := 8 + int.from_bytes(pending[4:8], "big")
        ):
            received.update(pending[8:end])
            left -= end - 8
            del pending[:end]
        most = max(most, keeper_memory(daemon, container.id))
    sender.join()
    stream.close()
    assert received.digest() == sent.digest()
    print(f"\nkeeper's own memory: {before >> 10} KiB, at most {most >> 10} KiB")
    assert most - before < 12 << 20
    container.kill()
    assert until(lambda: daemon.client.containers.get(container.id).status == "exited")
