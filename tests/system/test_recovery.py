"""A daemon that is killed at any moment: containers go on, and the next daemon knows all of it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import docker
from docker.errors import NotFound
from docker.models.containers import Container
from harness import Daemon, until


def test_kill_leaves_containers_running(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = daemon.client.containers.run(
        "busybox",
        "sh -c 'echo before; read line; echo $line; exit 42'",
        detach=True,
        stdin_open=True,
        name="survivor",
    )
    container.reload()
    pid = container.attrs["State"]["Pid"]
    address = container.attrs["NetworkSettings"]["IPAddress"]
    daemon.stop(signal.SIGKILL)
    assert subprocess.run(["kill", "-0", str(pid)]).returncode == 0
    daemon.start()
    container.reload()
    assert container.status == "running"
    assert container.attrs["State"]["Pid"] == pid
    assert container.attrs["NetworkSettings"]["IPAddress"] == address
    assert container.exec_run("echo again")[1] == b"again\n"
    stream = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    stream._sock.sendall(b"after\n")
    frames = docker.utils.socket.frames_iter(stream, tty=False)
    assert next(frames) == (1, b"after\n")
    stream.close()
    assert container.wait()["StatusCode"] == 42
    assert container.logs() == b"before\nafter\n"


def test_exit_while_there_is_no_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = daemon.client.containers.run(
        "busybox", "sh -c 'read line; echo gone; exit 9'", detach=True, stdin_open=True
    )
    brief = daemon.client.containers.run(
        "busybox", "sh -c 'read line'", detach=True, stdin_open=True, auto_remove=True
    )
    pids = []
    for one in (container, brief):
        one.reload()
        pids.append(one.attrs["State"]["Pid"])
    daemon.stop(signal.SIGKILL)
    for pid in pids:
        subprocess.run(["kill", "-9", str(pid)], check=True)
    run_dir = daemon.run / "containers" / container.id
    assert until(lambda: b'"exited"' in (run_dir / "state.json").read_bytes())
    daemon.start()
    container.reload()
    assert container.status == "exited"
    assert container.attrs["State"]["ExitCode"] == 137

    def removed() -> bool:
        try:
            daemon.client.containers.get(brief.id)
        except NotFound:
            return True
        return False

    assert until(removed)
    container.start()
    container.kill()


def test_restart_policy_outlives_a_killed_keeper(own_daemon: Daemon) -> None:
    """What the kernel does to a keeper when memory runs out is no reason to stay down."""
    daemon = own_daemon
    policies = ("always", "on-failure", "no")
    containers = [
        daemon.client.containers.run(
            "busybox", "sleep 1000", detach=True, name=policy, restart_policy={"Name": policy}
        )
        for policy in policies
    ]
    for container in containers:
        container.reload()
        stat = Path(f"/proc/{container.attrs['State']['Pid']}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    for container in containers[:2]:
        first = container.attrs["State"]["Pid"]

        def again(container: Container = container, first: int = first) -> bool:
            container.reload()
            return container.status == "running" and container.attrs["State"]["Pid"] != first

        until(again)
    assert containers[2].wait()["StatusCode"] == 255
    containers[2].reload()
    assert containers[2].status == "exited"


def test_attached_client_outlives_the_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = daemon.client.containers.create("busybox", "cat", stdin_open=True)
    stream = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    stream._sock.sendall(b"one\n")
    frames = docker.utils.socket.frames_iter(stream, tty=False)
    assert next(frames) == (1, b"one\n")
    daemon.stop(signal.SIGKILL)
    stream._sock.sendall(b"two\n")
    assert next(frames) == (1, b"two\n")
    daemon.start()
    stream._sock.sendall(b"three\n")
    assert next(frames) == (1, b"three\n")
    stream.close()


def test_clean_stop_leaves_containers_running(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = daemon.client.containers.run("busybox", "sleep 1000", detach=True)
    assert daemon.stop() == 0
    daemon.start()
    container.reload()
    assert container.status == "running"


def test_a_hangup_does_not_end_the_daemon(own_daemon: Daemon) -> None:
    own_daemon.process.send_signal(signal.SIGHUP)
    assert own_daemon.client.ping()
    assert own_daemon.process.poll() is None


def test_second_daemon_is_refused(own_daemon: Daemon) -> None:
    second = subprocess.run(own_daemon.command(), capture_output=True, timeout=30)
    assert second.returncode == 1
    text = second.stderr.decode()
    assert "is in use by another sampan daemon (process" in text
    assert text.count("\n") == 1
