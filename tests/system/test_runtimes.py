"""Containers run by crun, runc and runsc, with everything around them as for our own runtime."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError
from harness import Daemon, running, until

SANDBOX = "sandboxed"
ALL = ("crun", "runc", SANDBOX)
PLAIN = ("crun", "runc")


@pytest.fixture(scope="module")
def machine() -> Iterator[Daemon]:
    """A daemon whose configuration names runsc with arguments: the sandbox's own network stack
    needs to move addresses of the namespace, which not every pair of kernel and runsc can do."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        program = {"path": "runsc", "runtimeArgs": ["--network=none"]}
        broken = {"path": "/nosuch/runtime"}
        json.dump({"runtimes": {SANDBOX: program, "broken": broken}}, file)
        file.flush()
        yield from running("--config-file", file.name)


@pytest.fixture(params=ALL)
def runtime(request: pytest.FixtureRequest, machine: Daemon) -> Iterator[str]:
    program = "runsc" if request.param == SANDBOX else request.param
    if shutil.which(program, path="/usr/local/sbin:/usr/sbin:/usr/bin") is None:
        pytest.skip(f"{program} is not installed")
    yield request.param
    machine.remove_containers()


def start(daemon: Daemon, runtime: str, *command: str, **options: Any) -> Any:
    return daemon.client.containers.run(
        "busybox", list(command), runtime=runtime, detach=True, **options
    )


@pytest.mark.proves("docker container run --runtime", "docker container create --runtime")
def test_streams_and_exit_code(machine: Daemon, runtime: str) -> None:
    words = ["run", "--rm", "-i", "--runtime", runtime, "-u", "user", "-h", "box", "busybox"]
    script = "cat; id -u; id -G; echo $HOME; hostname; echo problem >&2; exit 7"
    done = machine.docker(*words, "sh", "-c", script, input=b"in\n")
    assert done.stdout == b"in\n1000\n1000 2000\n/home\nbox\n", done.stderr
    assert done.stderr == b"problem\n"
    assert done.returncode == 7
    done = machine.docker("run", "--rm", "-t", "--runtime", runtime, "busybox", "stty", "-a")
    assert b"speed" in done.stdout and done.returncode == 0


def test_a_program_that_is_not_there(machine: Daemon, runtime: str) -> None:
    done = machine.docker("run", "--runtime", runtime, "--name", "nothing", "busybox", "nosuch")
    assert done.returncode == 127, done.stderr
    found = machine.client.containers.get("nothing")
    assert found.attrs["State"]["ExitCode"] == 127
    assert found.attrs["HostConfig"]["Runtime"] == runtime
    # The next start finds nothing of the last one in its way.
    with pytest.raises(APIError, match="nosuch"):
        found.start()


def test_the_life_of_a_container(machine: Daemon, runtime: str) -> None:
    script = "trap 'echo ended; exit 3' TERM; echo began; while :; do sleep 0.1; done"
    one = start(machine, runtime, "sh", "-c", script, mem_limit="96m")
    until(lambda: b"began" in one.logs())
    code, (out, err) = one.exec_run(["sh", "-c", "echo a; echo b >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"a\n", b"b\n")
    assert one.exec_run(["id", "-u"], user="user").output == b"1000\n" or runtime == SANDBOX
    assert one.exec_run("nosuch").exit_code in (126, 127)
    if runtime != SANDBOX:
        assert one.exec_run("tty", tty=True).output.startswith(b"/dev/pts/")
    sample = one.stats(stream=False)
    assert sample["memory_stats"]["limit"] == 96 << 20
    assert sample["pids_stats"]["current"] >= 1
    one.pause()
    one.reload()
    assert one.status == "paused"
    one.unpause()
    one.stop(timeout=10)
    assert one.wait()["StatusCode"] == 3
    assert one.logs() == b"began\nended\n"
    one.start()
    one.kill()
    assert one.wait()["StatusCode"] == 137


def test_commands_at_once(machine: Daemon, runtime: str) -> None:
    """Each is told what became of it, and of no other."""
    one = start(machine, runtime, "sleep", "1000")
    words = [["sh", "-c", f"exit {number}"] for number in range(10, 16)]
    words[1] = words[4] = ["nosuch"]
    with ThreadPoolExecutor() as pool:
        codes = [done.exit_code for done in pool.map(one.exec_run, words)]
    assert [code for code in codes if code < 100] == [10, 12, 13, 15]
    assert {codes[1], codes[4]} <= {126, 127}
    one.remove(force=True)


def test_the_daemon_may_end_meanwhile(machine: Daemon, runtime: str) -> None:
    one = start(machine, runtime, "sh", "-c", "cat; exit 5", stdin_open=True)
    machine.stop(signal.SIGKILL)
    machine.start()
    one.reload()
    assert one.status == "running"
    connection = one.attach_socket(params={"stdin": 1, "stream": 1})
    connection._sock.sendall(b"after\n")
    until(lambda: one.logs() == b"after\n")
    assert one.exec_run("true").exit_code == 0
    connection.close()
    one.kill(signal.SIGKILL)
    assert one.wait()["StatusCode"] == 137


def test_a_keeper_that_is_killed_is_not_in_the_way(machine: Daemon, runtime: str) -> None:
    one = start(machine, runtime, "sleep", "1000")
    state = json.loads((machine.run / "containers" / one.id / "state.json").read_text())
    os.kill(state["keeper_pid"], signal.SIGKILL)
    until(lambda: one.reload() or one.status == "exited")
    one.start()
    assert one.exec_run("true").exit_code == 0
    one.remove(force=True)


@pytest.mark.parametrize("runtime", PLAIN, indirect=True)
def test_network_names_and_ports(machine: Daemon, runtime: str) -> None:
    network = machine.client.networks.create("ext")
    try:
        page = "mkdir -p /w; echo $HOSTNAME > /w/index.html; exec httpd -f -h /w -p 80"
        options = {"network": "ext", "ports": {"80/tcp": ("127.0.0.1", None)}, "hostname": "web"}
        web = start(machine, runtime, "sh", "-c", page, name="web", **options)
        web.reload()
        port = web.ports["80/tcp"][0]["HostPort"]
        until(lambda: fetched(port) == b"web\n")
        done = machine.client.containers.run(
            "busybox", ["wget", "-q", "-O-", "http://web/"], runtime=runtime, network="ext"
        )
        assert done == b"web\n"
        web.remove(force=True)
    finally:
        machine.remove_containers()
        network.remove()


def fetched(port: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


@pytest.mark.parametrize("runtime", PLAIN, indirect=True)
def test_confinement_is_the_same(machine: Daemon, runtime: str) -> None:
    script = (
        "exec 2>&1; grep -E '^(Cap|Seccomp:|NoNew)' /proc/self/status; ls /proc/acpi /sys/firmware;"
        "cat /proc/kcore; mkdir /proc/sys/x; unshare -m true 2>&1; touch /x 2>&1; ulimit -n;"
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /v; stat -c '%t:%T' /dev/mine"
    )
    options: dict[str, Any] = {
        "read_only": True,
        "cap_add": ["NET_ADMIN"],
        "cap_drop": ["CHOWN"],
        "security_opt": ["no-new-privileges"],
        "tmpfs": {"/v": "size=64k"},
        "devices": ["/dev/null:/dev/mine:r"],
        "remove": True,
    }
    ours, theirs = (
        machine.client.containers.run("busybox", ["sh", "-c", script], runtime=name, **options)
        for name in ("sampan", runtime)
    )
    assert theirs == ours
    assert b"Seccomp:\t2" in ours


@pytest.mark.parametrize("runtime", PLAIN, indirect=True)
def test_restarts_health_and_shared_memory(machine: Daemon, runtime: str) -> None:
    again = start(
        machine,
        runtime,
        "sh",
        "-c",
        "exit 9",
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 1},
    )
    assert again.wait()["StatusCode"] == 9
    again.reload()
    assert again.attrs["RestartCount"] == 1
    check = {"test": ["CMD", "test", "-e", "/tmp"], "interval": 10**8}
    donor = start(machine, runtime, "sleep", "60", ipc_mode="shareable", healthcheck=check)
    until(lambda: donor.reload() or donor.attrs["State"]["Health"]["Status"] == "healthy")
    assert donor.exec_run(["sh", "-c", "echo shared > /dev/shm/f"]).exit_code == 0
    words = ["cat", "/dev/shm/f"]
    joined = machine.client.containers.run(
        "busybox", words, runtime=runtime, ipc_mode=f"container:{donor.id}"
    )
    assert joined == b"shared\n"


def test_what_runtimes_there_are(machine: Daemon) -> None:
    info = machine.client.info()
    assert info["DefaultRuntime"] == "sampan"
    assert info["Runtimes"]["sampan"] == {"path": "sampan-oci"}
    assert info["Runtimes"][SANDBOX] == {"path": "runsc", "runtimeArgs": ["--network=none"]}
    for name, text in (
        ("nosuch", "unknown or invalid runtime name: nosuch"),
        ("../crun", "unknown or invalid runtime name"),
        ("broken", "/nosuch/runtime is not an executable program"),
    ):
        with pytest.raises(APIError, match=text):
            start(machine, name, "true")
    machine.remove_containers()


def test_another_default_runtime() -> None:
    if shutil.which("runc", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("runc is not installed")
    for daemon in running("--default-runtime", "mine", "--add-runtime", "mine=runc"):
        assert daemon.client.info()["DefaultRuntime"] == "mine"
        one = daemon.client.containers.run("busybox", ["sleep", "60"], detach=True)
        one.reload()
        assert one.attrs["HostConfig"]["Runtime"] == "mine"
        shown = subprocess.run(
            ["runc", "--root", f"{daemon.run}/containers/{one.id}/runtime", "list", "-q"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.split() == [one.id]


def test_a_default_that_there_is_not(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "--default-runtime", "nosuch")
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    log = tmp_path / "log"
    assert "unknown or invalid runtime name: nosuch" in done.stderr + (
        log.read_text() if log.exists() else ""
    )


FIRST = 200000


@pytest.fixture(scope="module")
def remapping() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("subuid", "subgid"):
            Path(folder, name).write_text(f"0:{FIRST}:65536\n")
        yield from running("--userns-remap", "0", "--subid-dir", folder)


@pytest.mark.parametrize("name", PLAIN)
def test_remapped_users(remapping: Daemon, name: str, tmp_path: Path) -> None:
    if shutil.which(name, path="/usr/local/sbin:/usr/sbin:/usr/bin") is None:
        pytest.skip(f"{name} is not installed")
    daemon = remapping
    closed = [
        directory
        for directory in (daemon.run / "containers/x").parents
        if directory.exists() and not directory.stat().st_mode & 1
    ]
    try:
        if closed:
            with pytest.raises(APIError, match="chmod o\\+x"):
                start(daemon, name, "true")
            daemon.remove_containers()
        for directory in closed:
            directory.chmod(0o711)
        tmp_path.chmod(0o755)
        (tmp_path / "file").write_text("of the host\n")
        options = {
            "volumes": {"data": {"bind": "/data"}, str(tmp_path): {"bind": "/host"}},
            "ports": {"80/tcp": None},
        }
        script = "cat /host/file; echo x > /data/f; echo x > /made; exec sleep 1000"
        container = start(daemon, name, "sh", "-c", script, **options)
        assert os.stat(os.devnull).st_uid == 0
        container.reload()
        pid = container.attrs["State"]["Pid"]
        assert f"Uid:\t{FIRST}\t" in Path(f"/proc/{pid}/status").read_text()
        script = (
            "id -u; cat /proc/self/uid_map; stat -c '%n %u' / /bin/busybox /data /data/f /made;"
            "stat -c '%n %u' /etc/hosts /host/file; ip addr show eth0 | grep -c inet; touch /sys/x"
        )
        said = container.exec_run(["sh", "-c", script]).output.decode().splitlines()
        assert said[0] == "0"
        assert said[1].split() == ["0", str(FIRST), "65536"]
        assert said[2:7] == ["/ 0", "/bin/busybox 0", "/data 0", "/data/f 0", "/made 0"]
        assert said[7] == "/etc/hosts 0"
        assert container.logs() == b"of the host\n"
        volume = daemon.client.volumes.get("data").attrs["Mountpoint"]
        assert Path(volume, "f").stat().st_uid == 0
        changes = {(change["Path"], change["Kind"]) for change in container.diff()}
        assert ("/made", 1) in changes
        container.restart(timeout=1)
        container.reload()
        assert container.status == "running"
        done = daemon.docker(
            "run", "--rm", "-t", "--runtime", name, "busybox", "stat", "-c", "%u", "/dev/pts/0"
        )
        assert done.stdout.strip() == b"0", done
    finally:
        daemon.remove_containers()
