"""Containers from create to remove, by docker-py against a real daemon."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ImageNotFound, NotFound
from harness import Daemon, until


def run(daemon: Daemon, *command: str, **options: Any) -> tuple[int, bytes, bytes]:
    """Run a container to its end: exit code, output, error output."""
    container = daemon.client.containers.create("busybox", list(command), **options)
    stream = container.attach_socket(params={"stdout": 1, "stderr": 1, "stream": 1})
    container.start()
    out, err = b"", b""
    for number, data in docker.utils.socket.frames_iter(stream, tty=False):
        out, err = (out + data, err) if number == 1 else (out, err + data)
    stream.close()
    code = container.wait()["StatusCode"]
    container.remove()
    return code, out, err


def test_output_and_exit_code(daemon: Daemon) -> None:
    assert run(daemon, "sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")


def test_attach_before_start_loses_nothing(daemon: Daemon) -> None:
    code, out, _ = run(daemon, "seq", "1", "20000")
    assert code == 0
    assert out == b"".join(b"%d\n" % n for n in range(1, 20001))


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/etc/passwd", 126, "permission denied"),
    ],
)
def test_command_that_cannot_start(daemon: Daemon, command: str, code: int, text: str) -> None:
    container = daemon.client.containers.create("busybox", [command])
    with pytest.raises(APIError) as error:
        container.start()
    assert text in error.value.explanation
    container.reload()
    assert container.attrs["State"]["ExitCode"] == code
    assert container.status == "created"


def test_unknown_image(daemon: Daemon) -> None:
    with pytest.raises(ImageNotFound, match="No such image: nosuch:latest"):
        daemon.client.containers.create("nosuch")


def test_name_in_use(daemon: Daemon) -> None:
    first = daemon.client.containers.create("busybox", "true", name="taken")
    with pytest.raises(APIError) as error:
        daemon.client.containers.create("busybox", "true", name="taken")
    assert error.value.status_code == 409
    assert error.value.explanation == (
        f'Conflict. The container name "/taken" is already in use by container "{first.id}". You '
        "have to remove (or rename) that container to be able to reuse that name."
    )
    first.rename("free")
    assert daemon.client.containers.get("free").id == first.id
    with pytest.raises(NotFound, match="No such container: taken"):
        daemon.client.containers.get("taken")


def test_states(daemon: Daemon) -> None:
    container = daemon.client.containers.run("busybox", "sleep 1000", detach=True)

    def state() -> dict[str, Any]:
        container.reload()
        return dict(container.attrs["State"])

    assert state()["Running"] and state()["Pid"] > 0
    container.pause()
    assert state()["Status"] == "paused"
    with pytest.raises(APIError, match="is already paused"):
        container.pause()
    container.unpause()
    assert state()["Status"] == "running"
    container.restart(timeout=0)
    assert state()["Status"] == "running"
    container.kill("SIGKILL")
    assert container.wait()["StatusCode"] == 137
    assert state()["Status"] == "exited" and state()["Pid"] == 0
    with pytest.raises(APIError, match="is not running"):
        container.kill()
    container.start()
    container.stop(timeout=0)
    assert state()["ExitCode"] == 137
    container.remove()
    with pytest.raises(NotFound):
        container.reload()


def test_running_is_not_removed_without_force(daemon: Daemon) -> None:
    container = daemon.client.containers.run("busybox", "sleep 1000", detach=True, name="busy")
    with pytest.raises(APIError) as error:
        container.remove()
    assert error.value.status_code == 409
    assert 'cannot remove container "/busy": container is running' in error.value.explanation
    container.remove(force=True)


def test_auto_remove(daemon: Daemon) -> None:
    container = daemon.client.containers.run(
        "busybox", "sh -c 'read x; exit 3'", detach=True, auto_remove=True, stdin_open=True
    )
    outcome: dict[str, Any] = {}
    waiting = threading.Thread(target=lambda: outcome.update(container.wait(condition="removed")))
    waiting.start()
    container.kill("KILL")
    waiting.join(20)
    assert outcome["StatusCode"] == 137
    with pytest.raises(NotFound):
        daemon.client.containers.get(container.id)


def test_exec(daemon: Daemon) -> None:
    container = daemon.client.containers.run("busybox", "sleep 1000", detach=True)
    code, output = container.exec_run(
        ["sh", "-c", "echo $HOME $X; id -u; exit 5"], environment=["X=1"]
    )
    assert (code, output) == (5, b"/root 1\n0\n")
    code, output = container.exec_run(["nosuch"])
    assert code == 127 and b"executable file not found" in output
    code, (out, err) = container.exec_run("sh -c 'echo a; echo b >&2'", demux=True)
    assert (code, out, err) == (0, b"a\n", b"b\n")
    assert container.exec_run("id -u", user="user")[1] == b"1000\n"
    assert container.exec_run("pwd", workdir="/tmp")[1] == b"/tmp\n"


def test_exec_of_a_stopped_container(daemon: Daemon) -> None:
    container = daemon.client.containers.create("busybox", "true")
    with pytest.raises(APIError, match="is not running"):
        container.exec_run("true")


def test_identity(daemon: Daemon) -> None:
    script = "hostname; cat /etc/hostname; id; pwd; env | sort"
    code, out, _ = run(
        daemon,
        "sh",
        "-c",
        script,
        hostname="box",
        user="user",
        group_add=["extra"],
        working_dir="/tmp",
        environment={"A": "b"},
    )
    assert code == 0
    lines = out.decode().splitlines()
    assert lines[:2] == ["box", "box"]
    assert lines[2].startswith("uid=1000") and "2000" in lines[2]
    assert lines[3] == "/tmp"
    assert {"A=b", "HOSTNAME=box", "HOME=/home"} <= set(lines[4:])


def test_limits(daemon: Daemon) -> None:
    container = daemon.client.containers.run(
        "busybox",
        "sleep 1000",
        detach=True,
        mem_limit="64m",
        nano_cpus=500_000_000,
        pids_limit=50,
        shm_size="16m",
        ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)],
        read_only=True,
        tmpfs={"/scratch": "size=1m"},
    )
    stats = container.stats(stream=False)
    assert stats["memory_stats"]["limit"] == 64 << 20
    assert stats["pids_stats"] == {"current": 1, "limit": 50}
    assert container.exec_run("sh -c 'ulimit -n; ulimit -Hn'")[1] == b"100\n200\n"
    assert container.exec_run("touch /x")[0] != 0
    assert container.exec_run("touch /scratch/x")[0] == 0
    assert b"16.0M" in container.exec_run("df -h /dev/shm")[1]
    container.update(mem_limit="128m", memswap_limit="256m")
    container.reload()
    assert container.attrs["HostConfig"]["Memory"] == 128 << 20
    assert container.stats(stream=False)["memory_stats"]["limit"] == 128 << 20


@pytest.mark.parametrize("force", [True, False])
def test_removal_while_it_is_started_leaves_no_process(daemon: Daemon, force: bool) -> None:
    def start(container: Any) -> None:
        try:
            container.start()
        except (APIError, NotFound):
            return

    with ThreadPoolExecutor() as pool:
        for _ in range(6):
            container = daemon.client.containers.create("busybox", "sleep 600")
            starting = pool.submit(start, container)
            wait({starting}, timeout=0.004)
            try:
                container.remove(force=force)
            except APIError:
                # It runs already, and is known.
                starting.result()
                container.remove(force=True)
            starting.result()
            assert not list(Path("/sys/fs/cgroup").glob(f"*/sampan-test-*/{container.id}"))
            assert not list(Path("/sys/fs/cgroup").glob(f"sampan-test-*/{container.id}"))


def test_a_sample_of_a_container_that_is_removed_meanwhile(daemon: Daemon) -> None:
    container = daemon.client.containers.run("busybox", "sleep 60", detach=True)
    with ThreadPoolExecutor() as pool:
        sample = pool.submit(container.stats, stream=False)
        # A sample takes a second: between its two readings the container goes.
        assert not wait({sample}, timeout=0.3).done
        container.remove(force=True)
        assert sample.result()["id"] == container.id


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mem_limit": "1m"}, "Minimum memory limit allowed is 6MB"),
        ({"cap_add": ["NOSUCH"]}, "NOSUCH"),
        ({"nano_cpus": 10**15}, "Range of CPUs is from 0.01"),
        ({"restart_policy": {"Name": "sometimes"}}, "unknown policy"),
        ({"security_opt": ["nosuch"]}, "security-opt"),
        ({"devices": ["/dev/nosuch"]}, "/dev/nosuch"),
        ({"log_config": {"type": "nosuch"}}, "nosuch"),
        ({"runtime": "nosuch"}, "nosuch"),
        ({"storage_opt": {"size": "1G"}}, "storage"),
    ],
)
def test_refused(daemon: Daemon, options: dict[str, Any], text: str) -> None:
    before = len(daemon.client.containers.list(all=True))
    with pytest.raises(APIError) as error:
        daemon.client.containers.create("busybox", "true", **options)
    assert error.value.status_code in (400, 501)
    assert text in error.value.explanation
    assert len(daemon.client.containers.list(all=True)) == before


def test_published_port(daemon: Daemon) -> None:
    script = "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -p 80; done"
    container = daemon.client.containers.run(
        "busybox", ["sh", "-c", script], detach=True, ports={"80/tcp": ("127.0.0.1", None)}
    )
    container.reload()
    (binding,) = container.attrs["NetworkSettings"]["Ports"]["80/tcp"]
    url = f"http://127.0.0.1:{binding['HostPort']}"

    def fetch() -> bytes | None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            return None

    assert until(fetch) == b"hello"
    with pytest.raises(APIError, match="port is already allocated"):
        daemon.client.containers.run(
            "busybox", "true", ports={"80/tcp": ("127.0.0.1", int(binding["HostPort"]))}
        )
    container.remove(force=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(binding["HostPort"])))


def test_lists_and_filters(daemon: Daemon) -> None:
    one = daemon.client.containers.run(
        "busybox", "sleep 1000", detach=True, name="one", labels={"a": "1"}
    )
    two = daemon.client.containers.create("busybox", "true", name="two", labels={"a": "2"})

    def names(**options: Any) -> list[str]:
        return [container.name for container in daemon.client.containers.list(**options)]

    assert names() == ["one"]
    assert names(all=True) == ["two", "one"]
    assert names(all=True, filters={"label": "a=2"}) == ["two"]
    assert names(filters={"status": "created"}) == ["two"]
    assert names(all=True, filters={"name": "^/one$"}) == ["one"]
    assert names(all=True, filters={"ancestor": "busybox"}) == ["two", "one"]
    assert names(all=True, filters={"since": one.id}) == ["two"]
    assert names(all=True, filters={"before": two.id}) == ["one"]
    assert names(limit=1) == ["two"]
    with pytest.raises(APIError, match="invalid filter"):
        names(filters={"nosuch": "1"})


def test_events(daemon: Daemon) -> None:
    container = daemon.client.containers.create("busybox", "true", labels={"l": "v"})
    started = threading.Event()
    seen: list[dict[str, Any]] = []
    stream = daemon.client.events(
        decode=True, filters={"container": container.id}, since=container.attrs["Created"]
    )

    def collect() -> None:
        for event in stream:
            seen.append(event)
            started.set()
            if event["Action"] == "destroy":
                return

    reader = threading.Thread(target=collect)
    reader.start()
    assert started.wait(10)
    container.start()
    container.wait()
    container.remove()
    reader.join(10)
    stream.close()
    actions = [event["Action"] for event in seen if event["Type"] == "container"]
    assert actions == ["create", "start", "die", "destroy"]
    die = next(event for event in seen if event["Action"] == "die")
    assert die["Actor"]["Attributes"]["exitCode"] == "0"
    assert die["Actor"]["Attributes"]["l"] == "v"


def test_bind_volume_and_volumes_from(daemon: Daemon, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("from the host\n")
    first = daemon.client.containers.create(
        "busybox", "true", volumes=[f"{tmp_path}:/in:ro", "/data"], name="donor"
    )
    code, out, _ = run(
        daemon,
        "sh",
        "-c",
        "cat /in/file; touch /in/x || echo read-only; touch /data/x",
        volumes_from=["donor"],
    )
    assert (code, out) == (0, b"from the host\nread-only\n")
    mounts = {mount["Destination"]: mount for mount in first.attrs["Mounts"]}
    assert mounts["/in"]["RW"] is False and mounts["/data"]["Type"] == "volume"
    name = mounts["/data"]["Name"]
    first.remove(v=True)
    with pytest.raises(NotFound):
        daemon.client.volumes.get(name)


def test_shared_namespaces(daemon: Daemon) -> None:
    daemon.client.containers.run(
        "busybox", "sleep 1000", detach=True, name="first", ipc_mode="shareable"
    )
    code, out, _ = run(
        daemon,
        "sh",
        "-c",
        "ps | grep -c 'sleep 1000'; ip addr show eth0 | grep -c 'inet '",
        pid_mode="container:first",
        network_mode="container:first",
        ipc_mode="container:first",
    )
    assert code == 0
    assert int(out.split()[0]) >= 1 and out.split()[1] == b"1"


def test_diff(daemon: Daemon) -> None:
    container = daemon.client.containers.create(
        "busybox", ["sh", "-c", "echo x > /tmp/new; rm /etc/group; echo y >> /etc/passwd"]
    )
    container.start()
    container.wait()
    found = {(change["Path"], change["Kind"]) for change in container.diff()}
    assert {("/tmp/new", 1), ("/etc/group", 2), ("/etc/passwd", 0), ("/etc", 0)} <= found


def test_health(daemon: Daemon) -> None:
    container = daemon.client.containers.run(
        "busybox",
        "sh -c 'until [ -e /go ]; do sleep 0.05; done; touch /ready; sleep 1000'",
        detach=True,
        healthcheck={
            "test": ["CMD", "test", "-e", "/ready"],
            "interval": 50_000_000,
            "timeout": 5_000_000_000,
            "retries": 2,
        },
    )

    def status() -> str:
        container.reload()
        return str(container.attrs["State"]["Health"]["Status"])

    assert until(lambda: status() == "unhealthy")
    container.exec_run("touch /go")
    assert until(lambda: status() == "healthy")


def test_restart_policy(daemon: Daemon) -> None:
    container = daemon.client.containers.run(
        "busybox",
        "sh -c 'exit 1'",
        detach=True,
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
    )

    def done() -> bool:
        container.reload()
        state = container.attrs["State"]
        return state["Status"] == "exited" and container.attrs["RestartCount"] == 2

    assert until(done)


def test_inspect_of_shared_namespaces(daemon: Daemon) -> None:
    """A joined container is shown by its id, the host's name and label as Docker shows them."""
    containers = daemon.client.containers
    other = containers.run(
        "busybox", "sleep 1000", detach=True, name="joined", ipc_mode="shareable"
    )
    modes = dict.fromkeys(("network_mode", "pid_mode", "ipc_mode"), "container:joined")
    host = containers.create("busybox", "true", **modes).attrs["HostConfig"]
    shown = [host[name] for name in ("NetworkMode", "PidMode", "IpcMode")]
    assert shown == [f"container:{other.id}"] * 3
    shared = containers.create("busybox", "true", network_mode="host", pid_mode="host").attrs
    assert shared["Config"]["Hostname"] == os.uname().nodename
    assert shared["HostConfig"]["SecurityOpt"] == ["label=disable"]


def test_health_of_a_container_that_has_ended(daemon: Daemon) -> None:
    check = {"test": ["CMD", "true"], "interval": 10**9 * 60}
    ended = daemon.client.containers.run("busybox", "true", detach=True, healthcheck=check)
    ended.wait()
    ended.reload()
    assert ended.attrs["State"]["Health"]["Status"] == "unhealthy"
