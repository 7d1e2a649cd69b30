"""Restart policies and health checks across restarts of the daemon and of the machine.

What is started again was recorded from Docker's engine, container by container.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container
from harness import Daemon, until

COUNTED = "echo x >> /n; n=$(wc -l < /n); test $n = 2 && sleep 1000; exit 3"


def run(daemon: Daemon, policy: str, command: Any = "sleep 1000", **options: Any) -> Container:
    name, _, most = policy.partition(":")
    return daemon.client.containers.run(
        "busybox",
        command,
        detach=True,
        network_mode=options.pop("network_mode", "none"),
        restart_policy={"Name": name, "MaximumRetryCount": int(most or 0)},
        **options,
    )


def state(container: Container) -> tuple[str, int]:
    container.reload()
    return container.attrs["State"]["Status"], container.attrs["State"]["ExitCode"]


def power_off(daemon: Daemon) -> None:
    """Kill the daemon, and each container with its keeper."""
    daemon.stop(signal.SIGKILL)
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                opened = [os.readlink(link) for link in (folder / "fd").iterdir()]
                words = (folder / "cmdline").read_bytes() + "".join(opened).encode()
            except (OSError, ValueError):
                continue
            if int(folder.name) != os.getpid() and str(daemon.run).encode() in words:
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.mark.parametrize("off", [False, True])
def test_what_is_started_again(own_daemon: Daemon, off: bool) -> None:
    """When the daemon is started: what has ended and is to run; after a loss of power, also what
    had run."""
    daemon = own_daemon
    ran = {
        policy: run(daemon, policy) for policy in ("no", "always", "unless-stopped", "on-failure:3")
    }
    stopped = {policy: run(daemon, policy) for policy in ran}
    for container in stopped.values():
        container.stop(timeout=0)
    killed = run(daemon, "always")
    killed.kill()
    ended = {policy: run(daemon, policy, "false") for policy in ("no", "on-failure:1")}
    well = run(daemon, "on-failure", "true")
    for container in (*ended.values(), well):
        container.wait()
        until(lambda container=container: state(container)[0] == "exited")
    new = daemon.client.containers.create("busybox", restart_policy={"Name": "always"})
    pids = {}
    for policy, container in ran.items():
        container.reload()
        pids[policy] = container.attrs["State"]["Pid"]
    if off:
        power_off(daemon)
    else:
        daemon.stop()
    daemon.start()
    for container in (stopped["always"], stopped["on-failure:3"], killed):
        until(lambda container=container: state(container) == ("running", 0))
    for policy, container in ran.items():
        if off and policy == "no":
            assert state(container) == ("exited", 255)
            continue
        until(lambda container=container: state(container) == ("running", 0))
        assert (container.attrs["State"]["Pid"] == pids[policy]) is not off
    assert state(stopped["no"]) == state(stopped["unless-stopped"]) == ("exited", 137)
    assert state(ended["no"]) == state(ended["on-failure:1"]) == ("exited", 1)
    assert state(well) == ("exited", 0) and state(new) == ("created", 0)


def test_what_others_need_is_started_first(own_daemon: Daemon) -> None:
    daemon = own_daemon
    server = run(daemon, "always", network_mode="bridge", name="server")
    joined = run(daemon, "always", network_mode="container:server")
    linked = run(daemon, "always", network_mode="bridge", links={"server": "s"})
    power_off(daemon)
    daemon.start()
    for container in (server, joined, linked):
        until(lambda container=container: state(container)[0] == "running")


def test_retries_are_counted_while_there_is_no_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = run(daemon, "on-failure:4", ["sh", "-c", COUNTED])

    def count() -> int:
        container.reload()
        return int(container.attrs["RestartCount"])

    until(lambda: count() == 1 and state(container) == ("running", 0))
    daemon.stop(signal.SIGKILL)
    os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)
    folder = daemon.run / "containers" / container.id
    until(lambda: b'"exited"' in (folder / "state.json").read_bytes())
    daemon.start()
    assert state(container) == ("exited", 3) and count() == 4
    end = int(time.time()) + 1
    events = daemon.client.events(since=1, until=end, decode=True, filters={"event": "die"})
    dies = [event for event in events if event["id"] == container.id]
    assert [event["Actor"]["Attributes"]["exitCode"] for event in dies] == ["3"]


def test_the_stop_signal_ends_the_policy(daemon: Daemon) -> None:
    """As Docker's engine takes it, also when it is sent by ``kill``."""
    script = 'trap "exit 5" TERM; trap "exit 6" HUP; echo up; while :; do sleep 0.05; done'
    container = run(daemon, "always", ["sh", "-c", script])

    def up(times: int) -> bool:
        return container.logs().count(b"up") == times

    until(lambda: up(1))
    container.kill("HUP")
    until(lambda: up(2))
    container.kill("TERM")
    assert container.wait()["StatusCode"] == 5
    until(lambda: state(container) == ("exited", 5))
    assert up(2)


def test_health_goes_on_without_the_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = run(
        daemon,
        "no",
        healthcheck={"test": ["CMD-SHELL", "test ! -e /ill"], "interval": 10**8, "retries": 2},
    )

    def health(wanted: str) -> bool:
        container.reload()
        return bool(container.attrs["State"]["Health"]["Status"] == wanted)

    until(lambda: health("healthy"))
    container.exec_run("touch /ill")
    daemon.stop(signal.SIGKILL)
    folder = daemon.run / "containers" / container.id
    until(lambda: b'"unhealthy"' in (folder / "state.json").read_bytes())
    daemon.start()
    assert health("unhealthy")
    assert container.attrs["State"]["Health"]["FailingStreak"] >= 2
    assert len(container.attrs["State"]["Health"]["Log"]) >= 2
    assert container.attrs["State"]["Health"]["Log"][-1]["ExitCode"] == 1
    container.exec_run("rm /ill")
    until(lambda: health("healthy"))


def test_health_as_docker_tells_it(daemon: Daemon) -> None:
    """A start period has the interval of all others if it is given none; output of more than 4096
    bytes ends with dots; times are Go's."""
    check = {"interval": 10**8, "retries": 1}
    long = run(daemon, "no", healthcheck={"test": ["CMD-SHELL", "yes | head -c 9000"], **check})
    slow = run(
        daemon, "no", healthcheck={"test": ["CMD", "sleep", "9"], **check, "timeout": 150 * 10**6}
    )
    early = run(
        daemon,
        "no",
        healthcheck={"test": ["CMD", "false"], **check, "start_period": 60 * 10**9},
    )

    def health(container: Container) -> Any:
        container.reload()
        return container.attrs["State"]["Health"]

    for container in (long, slow):
        until(lambda container=container: health(container)["Log"])
    assert health(long)["Log"][0]["Output"] == "y\n" * 2048 + "..."
    assert health(slow)["Log"][0]["Output"] == "Health check exceeded timeout (150ms)"
    until(lambda: len(health(early)["Log"]) >= 3)
    assert health(early)["Status"] == "starting" and health(early)["FailingStreak"] == 0
