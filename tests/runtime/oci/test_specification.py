"""What the runtime specification 1.2 has beyond the peers here: each seen from inside the container,
and documents checked against the specification's own schemas."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ocicontainer import Container
from referencing import Registry, Resource

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    found = Container(tmp_path)
    yield found
    found("delete", "--force", found.name)


def bind(source: Path, *options: str, **more: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        entry = {"destination": "/data", "type": "bind", "source": str(source), **more}
        config["mounts"].append({**entry, "options": [*options]})

    return change


# --- how it is scheduled ------------------------------------------------------------------------


def test_scheduler_and_io_priority(container: Container) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
        config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}

    shown = container.run("ionice -p $$; cat /proc/self/stat", change)
    fields = shown.rpartition(")")[2].split()
    assert (fields[16], fields[38]) == ("7", "3")  # nice, SCHED_BATCH
    assert "best-effort: prio 6" in shown

    def idle(config: dict[str, Any]) -> None:
        config["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE"}
        config["process"]["scheduler"] = {"policy": "SCHED_IDLE", "flags": []}

    assert "idle" in container.run("ionice -p $$", idle)


def test_processors_of_an_exec(container: Container) -> None:
    last = max(os.sched_getaffinity(0))
    container.start("sleep 60")
    process = {
        **container.config["process"],
        "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
    }
    process["execCPUAffinity"] = {"initial": "0", "final": str(last)}
    file = container.directory / "process.json"
    file.write_text(json.dumps(process))
    done = container("exec", "--process", str(file), container.name)
    assert done.stdout == f"Cpus_allowed_list:\t{last}\n", done.stderr


# --- filters that notify ------------------------------------------------------------------------


class _Call(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("number", ctypes.c_int),
        ("arch", ctypes.c_uint32),
        ("pointer", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class _Answer(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("value", ctypes.c_int64),
        ("error", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


def _ioctl(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | ord("!") << 8 | number


_RECEIVE, _SEND = _ioctl(0, ctypes.sizeof(_Call)), _ioctl(1, ctypes.sizeof(_Answer))


class Agent:
    """Answers every notified call with an error number, from a thread."""

    def __init__(self, path: Path, error: int, expected: int) -> None:
        self.path, self.error, self.expected = str(path), error, expected
        self.states: list[dict[str, Any]] = []
        self.calls = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self.calls < self.expected:
            connection, _ = self._listener.accept()
            with connection:
                data, [fd], _, _ = socket.recv_fds(connection, 65536, 1)
            self.states.append(json.loads(data))
            call = _Call()
            fcntl.ioctl(fd, _RECEIVE, call)
            fcntl.ioctl(fd, _SEND, _Answer(call.id, 0, -self.error, 0))
            self.calls += 1
            os.close(fd)

    def finish(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._listener.close()


@pytest.mark.parametrize("bare", [False, True])
def test_a_listener_answers_calls(container: Container, tmp_path: Path, bare: bool) -> None:
    agent = Agent(tmp_path / "agent", error=122, expected=2)  # EDQUOT

    def change(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = bare
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": agent.path,
            "listenerMetadata": "for you",
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }

    container.start("mkdir /tmp/x; sleep 60", change)
    done = container("exec", container.name, "mkdir", "/tmp/y")
    assert "quota exceeded" in done.stderr.lower()
    agent.finish()
    first, second = agent.states
    assert first["fds"] == ["seccompFd"] and first["metadata"] == "for you"
    assert first["state"]["id"] == container.name and first["ociVersion"].startswith("1.2")
    assert first["pid"] == first["state"]["pid"] != second["pid"]
    assert second["state"]["status"] == "running"


def test_a_listener_that_is_not_there(container: Container, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(tmp_path / "nobody"),
            "syscalls": [rule],
        }

    container.prepare("true", change)
    done = container("run", "-b", str(container.directory), container.name)
    assert done.returncode != 0
    assert "cannot hand the listener to" in done.stderr
    assert not list((container.directory / "root").iterdir())


# --- readiness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["run", "detached", "create"])
def test_readiness_is_passed_on(container: Container, tmp_path: Path, way: str) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "manager"))
    manager.settimeout(20)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "manager")}
    script = (
        'test -n "$NOTIFY_SOCKET" && touch /data/up; while test ! -e /data/end; do sleep 0.05; done'
    )
    data = tmp_path / "data"
    data.mkdir()
    container.prepare(script, bind(data, "bind"))
    words = {
        "run": ["run", "-b", str(tmp_path), container.name],
        "detached": ["run", "-d", "-b", str(tmp_path), container.name],
        "create": ["create", "-b", str(tmp_path), container.name],
    }[way]
    base = [*container.command, "--root", str(tmp_path / "root")]
    with (tmp_path / "out").open("w") as out:
        if way == "create":
            subprocess.run([*base, *words], env=environment, stdout=out, stderr=out, check=True)
            words = ["start", container.name]
        command = subprocess.Popen([*base, *words], env=environment, stdout=out, stderr=out)
    wait_for((data / "up").exists)
    # By the directory's descriptor, as such a path is limited to 108 bytes.
    place = os.open(tmp_path / "root" / container.name / "notify", os.O_PATH)
    own = f"/proc/self/fd/{place}/notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inside:
        inside.sendto(b"STATUS=soon\n", own)
        if way != "run":
            assert command.poll() is None
        inside.sendto(b"READY=1\n", own)
    os.close(place)
    pid = json.loads(container("state", container.name).stdout)["pid"]
    assert manager.recv(4096) == b"READY=1\nMAINPID=%d\n" % pid
    if way != "run":
        assert command.wait(20) == 0
    (data / "end").touch()
    assert command.wait(20) == 0
    manager.close()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = threading.Event()
    for _ in range(2000):
        if condition():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not happen")


# --- mounts, namespaces, personality --------------------------------------------------------------


def test_owners_are_mapped(container: Container, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 5, 6)
    mapping = [{"containerID": 0, "hostID": 1000, "size": 100}]
    change = bind(source, "bind", "idmap", uidMappings=mapping, gidMappings=mapping)
    assert container.run("stat -c '%u %g' /data/file", change) == "1005 1006\n"


def test_a_whole_tree_is_read_only(container: Container, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "x", str(source / "below")], check=True)
    try:
        script = "touch /data/below/x 2>/dev/null && echo written"
        assert container.run(script + "; true", bind(source, "rbind", "ro")) == "written\n"
        assert container.run(script + "; true", bind(source, "rbind", "rro")) == ""
    finally:
        subprocess.run(["umount", str(source / "below")], check=True)


def test_time_domain_name_and_personality(container: Container) -> None:
    def change(config: dict[str, Any]) -> None:
        config["domainname"] = "domain"
        config["linux"]["personality"] = {"domain": "LINUX32"}
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000}}

    script = "cat /proc/sys/kernel/domainname; uname -m; grep -o '^[0-9]*' /proc/uptime"
    domain, machine, uptime = container.run(script, change).split()
    assert domain == "domain"
    assert machine == ("i686" if os.uname().machine == "x86_64" else machine)
    assert int(uptime) >= 1000000


# --- documents ------------------------------------------------------------------------------------


def validator(name: str) -> jsonschema.Draft4Validator:
    if not SCHEMAS.is_dir():
        pytest.skip("the Debian package golang-github-opencontainers-specs-dev is not installed")

    def load(uri: str) -> Resource[Any]:
        contents = json.loads((SCHEMAS / uri.rpartition("/")[2]).read_text())
        return Resource.from_contents(
            {**contents, "$schema": "http://json-schema.org/draft-04/schema#"}
        )

    registry: Registry[Any] = Registry(retrieve=load)
    schema = json.loads((SCHEMAS / name).read_text())
    return jsonschema.Draft4Validator({**schema, "id": f"schema:{name}"}, registry=registry)


def test_what_is_written_fits_the_schemas(container: Container) -> None:
    validator("config-schema.json").validate(container.config)
    container.start("sleep 60")
    state = json.loads(container("state", container.name).stdout)
    validator("state-schema.json").validate(state)
    container("pause", container.name)
    container("resume", container.name)
    container("kill", container.name, "KILL")
    wait_for(lambda: json.loads(container("state", container.name).stdout)["status"] == "stopped")
    validator("state-schema.json").validate(json.loads(container("state", container.name).stdout))


def test_what_the_engine_asks_for_fits_the_schema() -> None:
    from sampan.runtime.seccomp import plain_profile
    from sampan.runtime.spec import default_spec, make_privileged

    for privileged in (False, True):
        spec = default_spec(args=["true"], hostname="box", cgroups_path="/x/y")
        spec["linux"]["seccomp"] = plain_profile(spec["linux"]["seccomp"], ["CAP_CHOWN"])
        if privileged:
            make_privileged(spec)
            del spec["linux"]["seccomp"]
        validator("config-schema.json").validate(spec)


def test_features_have_the_specification_s_form(container: Container) -> None:
    """By the text of ``features.md``: the fields, their types, and values that the runtime takes."""
    found = json.loads(container("features").stdout)
    for name in ("ociVersionMin", "ociVersionMax"):
        assert isinstance(found[name], str) and found[name].startswith("1.")
    assert set(found["hooks"]) == {
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    }
    assert {"ro", "rro", "rbind", "nosymfollow"} <= set(found["mountOptions"])
    linux = found["linux"]
    assert {"pid", "network", "mount", "ipc", "uts", "cgroup", "time"} <= set(linux["namespaces"])
    for part, fields in (
        ("cgroup", {"v1", "v2", "systemd", "systemdUser", "rdma"}),
        ("apparmor", {"enabled"}),
        ("selinux", {"enabled"}),
        ("intelRdt", {"enabled"}),
    ):
        assert fields <= set(linux[part])
        assert all(isinstance(linux[part][field], bool) for field in fields)
    seccomp = linux["seccomp"]
    assert seccomp["enabled"] is True
    for name, prefix in (
        ("actions", "SCMP_ACT_"),
        ("operators", "SCMP_CMP_"),
        ("archs", "SCMP_ARCH_"),
    ):
        assert seccomp[name] and all(value.startswith(prefix) for value in seccomp[name])
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])
    assert linux["mountExtensions"]["idmap"]["enabled"] is True
