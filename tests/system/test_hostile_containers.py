"""What a container may do to annoy its engine: the engine and its other containers go on."""

from __future__ import annotations

import time
from contextlib import suppress
from queue import Queue
from threading import Thread

import docker
import pytest
from harness import Daemon, until


def test_directories_deeper_than_a_path_may_be_long(own_daemon: Daemon) -> None:
    """They are counted and removed, and no daemon stumbles over them when it starts."""
    own_daemon.load_busybox()
    client = own_daemon.client
    client.volumes.create("deep")
    dig = "while echo > file && mkdir a && cd a; do :; done 2> /dev/null; true"
    # 2,000 levels in the container and in its volume: as many as have a path.
    container = client.containers.run(
        "busybox",
        ["sh", "-c", f"cd /root; {dig}; cd /v; {dig}"],
        volumes={"deep": {"bind": "/v"}},
        network_mode="none",
        detach=True,
    )
    assert container.wait(timeout=60)["StatusCode"] == 0
    assert client.api.df()["Containers"][0]["SizeRw"] > 2000
    with pytest.raises(docker.errors.APIError, match="nested too deep"):
        container.commit("deep")
    container.remove()
    client.volumes.get("deep").remove()
    left = own_daemon.state / "volumes"
    assert not list(left.glob("*deep*")) and not list(left.glob(".*"))
    own_daemon.stop()
    own_daemon.start()
    assert client.ping()


STOPS_ALL = "while :; do kill -STOP -1; done"


def test_a_container_that_stops_whatever_enters_it(daemon: Daemon) -> None:
    """A process on its way into the container is seen there, and may be stopped by its root: the
    engine does not wait for it."""
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", STOPS_ALL], network_mode="none", detach=True
    )
    answers: Queue[object] = Queue()

    def execute() -> None:
        try:
            while answers.qsize() < 20:
                answers.put(container.exec_run(["true"]))
        except docker.errors.APIError as error:
            answers.put(error)

    thread = Thread(target=execute)
    thread.start()
    answers.get(timeout=20)
    started = time.monotonic()
    container.kill()
    container.wait(timeout=10)
    assert time.monotonic() - started < 5
    thread.join(20)
    assert not thread.is_alive()


def test_a_container_that_stops_whatever_joins_its_processes(daemon: Daemon) -> None:
    jail = daemon.client.containers.run(
        "busybox", ["sh", "-c", STOPS_ALL], network_mode="none", detach=True
    )
    for _ in range(3):
        guest = daemon.client.containers.create(
            "busybox", ["true"], pid_mode=f"container:{jail.id}", network_mode="none"
        )
        started = time.monotonic()
        with suppress(docker.errors.APIError):  # it was stopped; or else it was quick enough
            guest.start()
        guest.remove(force=True)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("number", [2**32 - 1, 2**64 - 1])
def test_a_user_whose_number_means_to_stay_root(daemon: Daemon, number: int) -> None:
    """As in CVE-2024-40635: an image says to run as somebody, and would run as root."""
    entry = f"ghost:x:{number}:{number}::/:/bin/sh"
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", f"echo {entry} >> /etc/passwd; sleep 1000"], detach=True
    )
    until(lambda: b"ghost" in container.exec_run(["cat", "/etc/passwd"]).output)
    answer = container.exec_run(["id", "-u"], user="ghost")
    assert answer.exit_code != 0 and answer.output.strip() != b"0"


def test_a_process_whose_name_is_no_text(daemon: Daemon) -> None:
    """Its name is the container's to choose, and ``top`` shows it."""
    name = "printf '\\377\\376)' > /proc/self/comm; sleep 1000; true"
    container = daemon.client.containers.run("busybox", ["sh", "-c", name], detach=True)
    until(lambda: len(container.top()["Processes"]) == 2)
