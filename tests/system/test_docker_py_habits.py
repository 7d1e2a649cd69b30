"""What programs on docker-py and Testcontainers do at the edges: wait before a start, attach after
the end, read logs from a fraction of a second on, sweep up by label."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import docker
import pytest
from docker.errors import NotFound
from harness import Daemon, until

NONE = {"network_mode": "none"}
LABEL = "org.testcontainers.session-id"


class Waiting(threading.Thread):
    """A client that waits for a condition of a container; ``answer`` when it has come."""

    def __init__(self, daemon: Daemon, id: str, condition: str) -> None:
        super().__init__(daemon=True)
        self._client = docker.DockerClient(base_url=daemon.url, timeout=30)
        self._id, self._condition = id, condition
        self.answer: dict[str, Any] | None = None
        self.start()

    def run(self) -> None:
        self.answer = self._client.api.wait(self._id, condition=self._condition)

    def code(self) -> int:
        self.join(20)
        assert self.answer is not None, self._condition
        return int(self.answer["StatusCode"])


def test_wait_before_the_start(daemon: Daemon) -> None:
    """What has not been started does not run; ``next-exit`` and ``removed`` are still to come."""
    container = daemon.client.containers.create("busybox", ["sh", "-c", "exit 7"], **NONE)
    exit, removed = (Waiting(daemon, container.id, each) for each in ("next-exit", "removed"))
    assert Waiting(daemon, container.id, "not-running").code() == 0
    container.start()
    assert exit.code() == 7
    assert Waiting(daemon, container.id, "not-running").code() == 7
    assert removed.is_alive()
    container.remove()
    assert removed.code() == 7


def test_wait_for_what_is_removed(daemon: Daemon) -> None:
    container = daemon.client.containers.run("busybox", "sleep 1000", detach=True, **NONE)
    waiting = [Waiting(daemon, container.id, each) for each in ("next-exit", "removed")]
    until(lambda: all(each.is_alive() for each in waiting))
    container.remove(force=True)
    assert [each.code() for each in waiting] == [137, 137]


def test_logs_from_a_fraction_of_a_second_on(daemon: Daemon) -> None:
    script = "echo a; sleep 0.15; echo b; sleep 0.15; echo c"
    container = daemon.client.containers.run("busybox", ["sh", "-c", script], detach=True, **NONE)
    container.wait()
    stamps = [line.split()[0] for line in container.logs(timestamps=True).decode().splitlines()]
    seconds = [seconds_of(stamp) for stamp in stamps]
    assert raw_logs(container, since=seconds[1]) == b"b\nc\n"
    assert raw_logs(container, until=seconds[1]) == b"a\nb\n"
    middle = f"{float(seconds[0]) + 0.07:.3f}"
    assert raw_logs(container, since=middle) == b"b\nc\n"
    assert raw_logs(container, since=middle, until=seconds[1]) == b"b\n"
    assert raw_logs(container, since=float(seconds[1])) in (b"b\nc\n", b"c\n")  # less exact
    assert raw_logs(container, since=stamps[2]) == b"c\n"
    assert container.logs(since=1.5, until=2.5) == b""


def seconds_of(stamp: str) -> str:
    """A time of a log as Docker's clients send it: seconds, and nine digits."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{int(datetime.fromisoformat(whole + '+00:00').timestamp())}.{fraction}"


def raw_logs(container: Any, **query: Any) -> bytes:
    api = container.client.api
    url = api._url("/containers/{0}/logs", container.id)
    answer = api._get(url, params={"stdout": 1, "stderr": 1, **query})
    assert answer.status_code == 200, answer.content
    data, found = answer.content, b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        found, data = found + data[8 : 8 + length], data[8 + length :]
    return found


def test_lines_of_followed_logs(daemon: Daemon) -> None:
    """Under Docker each turn of the loop is a line, and programs count on it."""
    lines = list(
        daemon.client.containers.run("busybox", ["seq", "300"], stream=True, remove=True, **NONE)
    )
    assert lines == [f"{number}\n".encode() for number in range(1, 301)]


def test_order_of_both_streams_after_a_rest(daemon: Daemon) -> None:
    """The first that is written when nobody has written for a while stays the first."""
    script = "sleep 0.6; echo first; echo second >&2; sleep 0.1"
    containers = [
        daemon.client.containers.run("busybox", ["sh", "-c", script], detach=True, **NONE)
        for _ in range(4)
    ]
    for container in containers:
        container.wait()
        assert container.logs() == b"first\nsecond\n"


def test_attach_after_the_end(daemon: Daemon) -> None:
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", "echo out; echo err >&2; exit 3"], detach=True, **NONE
    )
    container.wait()
    found = container.attach(stdout=True, stderr=True, logs=True, stream=False)
    assert sorted(found.split()) == [b"err", b"out"]
    assert container.attach(stdout=True, stderr=False, logs=True, stream=False) == b"out\n"
    # A stream waits for the next start, as before the first one.
    stream = container.attach(stdout=True, stderr=True, stream=True)
    container.start()
    assert sorted(b"".join(stream).split()) == [b"err", b"out"]
    assert sorted(container.logs(stream=True, follow=True)) == [
        b"err\n",
        b"err\n",
        b"out\n",
        b"out\n",
    ]


@pytest.fixture
def session(daemon: Daemon) -> Iterator[dict[str, str]]:
    yield {LABEL: "a-session"}
    for volume in daemon.client.volumes.list(filters={"label": LABEL}):
        volume.remove(force=True)


def test_sweeping_up_by_label(daemon: Daemon, session: dict[str, str]) -> None:
    """As Testcontainers' sweeper does when its last client has gone: all that has the label, while
    what runs is killed, and nothing else."""
    client = daemon.client
    kept = client.containers.run("busybox", "sleep 1000", detach=True, **NONE)
    network = client.networks.create("swept", labels=session)
    client.volumes.create("swept", labels=session)
    swept = [
        client.containers.run(
            "busybox", "sleep 1000", detach=True, labels=session, network="swept"
        ),
        client.containers.create("busybox", volumes=["swept:/v"], labels=session),
    ]
    other = client.containers.create("busybox", labels={LABEL: "another"})
    wanted = {"label": f"{LABEL}=a-session"}
    found = client.containers.list(all=True, filters=wanted)
    assert {each.id for each in found} == {each.id for each in swept}
    assert client.networks.prune(filters=wanted)["NetworksDeleted"] is None  # it is in use
    for each in found:
        each.remove(v=True, force=True)
    assert client.networks.prune(filters=wanted)["NetworksDeleted"] == ["swept"]
    assert client.volumes.prune(filters={**wanted, "all": True})["VolumesDeleted"] == ["swept"]
    assert client.images.prune(filters={**wanted, "dangling": False})["ImagesDeleted"] is None
    for each in (*swept, network):
        with pytest.raises(NotFound):
            each.reload()
    kept.reload()
    other.reload()
    assert kept.status == "running"
