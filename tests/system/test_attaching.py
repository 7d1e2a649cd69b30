"""Clients that are attached: several at once, the order of what they see, ends and back-pressure."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import LogConfig
from harness import Daemon, until

Frames = list[tuple[int, bytes]]


def attach(container: Any, **streams: int) -> Any:
    params = {"stdout": 1, "stderr": 1, "stream": 1, **streams}
    return container.attach_socket(params=params)


def frames(stream: Any) -> Frames:
    return list(docker.utils.socket.frames_iter(stream, tty=False))


def text_of(found: Frames, stream: int) -> bytes:
    return b"".join(data for number, data in found if number == stream)


def test_every_client_sees_everything(daemon: Daemon) -> None:
    """Each at its own pace; the log has the same."""
    container = daemon.client.containers.create("busybox", ["seq", "1", "200000"])
    streams = [attach(container) for _ in range(4)]
    only_errors = attach(container, stdout=0)
    found: dict[int, bytes] = {}

    def read(number: int) -> None:
        if number == 3:
            time.sleep(0.3)  # by then the others have to wait for it
        found[number] = text_of(frames(streams[number]), 1)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    container.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = b"".join(b"%d\n" % number for number in range(1, 200001))
    assert all(found[number] == expected for number in range(4))
    assert frames(only_errors) == []
    assert container.logs() == expected
    for stream in (*streams, only_errors):
        stream.close()


@pytest.mark.parametrize("driver", ["local", "json-file"])
def test_the_order_of_both_streams(daemon: Daemon, driver: str) -> None:
    """After a flood too, which is read in a way of its own."""
    script = (
        "head -c 3000000 /dev/zero | tr '\\0' x; echo; "
        "for i in $(seq 60); do read x; echo $i; read x; echo $i >&2; done"
    )
    container = daemon.client.containers.create(
        "busybox",
        ["sh", "-c", script],
        stdin_open=True,
        log_config=LogConfig(type=driver, config={}),
    )
    stream = attach(container, stdin=1)
    container.start()
    flood, pairs = 0, []
    for number, data in docker.utils.socket.frames_iter(stream, tty=False):
        if flood <= 3_000_000:
            flood += len(data)
        else:
            pairs.append((number, data))
        if flood > 3_000_000 and len(pairs) < 120:
            stream._sock.sendall(b"\n")
    stream.close()
    assert pairs == [(number, b"%d\n" % n) for n in range(1, 61) for number in (1, 2)]
    lines = container.logs(tail=120).splitlines()
    assert lines == [b"%d" % (number // 2 + 1) for number in range(120)]


def test_half_closed_input_ends_what_reads_it(daemon: Daemon) -> None:
    container = daemon.client.api.create_container("busybox", ["cat"], stdin_open=True)
    # docker-py does not say StdinOnce for who is not attached.
    body = daemon.client.api.create_container_config("busybox", ["sort", "-n"], stdin_open=True)
    body["StdinOnce"] = True
    daemon.client.api.remove_container(container["Id"])
    made = daemon.client.api.create_container_from_config(body)
    container = daemon.client.containers.get(made["Id"])
    stream = attach(container, stdin=1)
    container.start()
    connection: Any = stream._sock
    for number in range(20000, 0, -1):
        connection.sendall(b"%d\n" % number)
    connection.shutdown(socket.SHUT_WR)
    assert text_of(frames(stream), 1) == b"".join(b"%d\n" % n for n in range(1, 20001))
    assert container.wait()["StatusCode"] == 0
    stream.close()


def test_who_does_not_read_holds_the_output_back_until_it_goes(daemon: Daemon) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i > /count; head -c 4096 /dev/zero; done"
    container = daemon.client.containers.create("busybox", ["sh", "-c", script])
    silent = attach(container)
    container.start()
    count = Path(f"/proc/{container.client.api.inspect_container(container.id)['State']['Pid']}")

    def written() -> int:
        return int((count / "root/count").read_text() or 0)

    def stands_still() -> bool:
        before = written()
        time.sleep(0.2)
        return before == written() > 0

    assert until(stands_still)
    assert written() * 4096 < 4 << 20
    assert container.exec_run(["true"]).exit_code == 0
    here = written()
    silent._sock.shutdown(socket.SHUT_RDWR)
    silent.close()
    assert until(lambda: written() > here + 1000)
    container.kill()
