"""The same bundle run by crun, runc and sampan-oci: the same must be seen from inside and outside."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from sidebyside import PEERS, Bundle, Runtime, name

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def seen(bundle: Bundle, config: dict[str, Any], tmp_path: Path) -> dict[str, tuple[int, str]]:
    """(exit code, output) of ``run`` by each runtime."""
    bundle.write(config)
    result = {}
    for kind in ("sampan-oci", *PEERS):
        done = Runtime(kind, tmp_path / kind)("run", "-b", str(bundle.directory), name(kind))
        result[kind] = (done.returncode, done.stdout)
        if done.returncode and not done.stdout:
            print(kind, done.stderr)
    return result


def identity_of(config: dict[str, Any]) -> None:
    config["process"]["user"] = {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27}


def sets_up_seccomp(config: dict[str, Any]) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def limits(config: dict[str, Any]) -> None:
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]


def no_new_privileges(config: dict[str, Any]) -> None:
    config["process"]["noNewPrivileges"] = True


def read_only(config: dict[str, Any]) -> None:
    config["root"]["readonly"] = True


def hides(config: dict[str, Any]) -> None:
    config["linux"]["maskedPaths"] = ["/proc/kcore", "/sys/firmware", "/nosuch"]
    config["linux"]["readonlyPaths"] = ["/proc/sys"]


def sysctls(config: dict[str, Any]) -> None:
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}


def badness(config: dict[str, Any]) -> None:
    config["process"]["oomScoreAdj"] = 321


def device(config: dict[str, Any]) -> None:
    config["linux"]["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "gid": 9}
    ]


def recursive_read_only(config: dict[str, Any]) -> None:
    config["mounts"].append(
        {"destination": "/data", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]}
    )


def works_in_tmp(config: dict[str, Any]) -> None:
    config["process"]["cwd"] = "/tmp"


def ambient(config: dict[str, Any]) -> None:
    identity_of(config)
    for kind in ("inheritable", "ambient"):
        config["process"]["capabilities"][kind] = ["CAP_NET_BIND_SERVICE"]


CASES = [
    ("id; umask; echo $HOME; grep -E '^(Uid|Gid|Groups)' /proc/self/status", identity_of),
    ("grep -E '^Cap' /proc/self/status", lambda config: None),
    ("grep -E '^(Cap|Uid)' /proc/self/status", ambient),
    ("env | grep -v -E '^(HOME|SHLVL|PWD)='; hostname; exit 41", lambda config: None),
    (
        "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status; grep NoNew /proc/1/status",
        sets_up_seccomp,
    ),
    ("grep -E 'NoNew|Seccomp:' /proc/self/status", no_new_privileges),
    ("ulimit -n; ulimit -Hn", limits),
    ("touch /x 2>&1; touch /dev/shm/y && echo ok", read_only),
    (
        "cat /proc/kcore; ls /sys/firmware; echo 1 2>&1 > /proc/sys/kernel/domainname; echo $?",
        hides,
    ),
    ("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced", sysctls),
    ("cat /proc/self/oom_score_adj", badness),
    ("stat -c '%n %F %a %g %t:%T' /dev/mine /dev/null; ls /dev | grep -v core", device),
    ("ls -d /data/kernel; touch /data/x 2>&1", recursive_read_only),
    ("pwd 2>/dev/null; test $PWD = /tmp", works_in_tmp),
    ("grep -c . /proc/net/dev; ls /proc/self/fd | grep -c .", lambda config: None),
    ("grep -E ' (/proc|/dev/shm|/sys|/dev/pts) ' /proc/mounts | grep -c .", lambda config: None),
    ("kill -9 $$", lambda config: None),
]


@pytest.mark.parametrize(("script", "change"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_the_same_is_seen_inside(bundle: Bundle, tmp_path: Path, script: str, change: Any) -> None:
    config = bundle.script(script)
    change(config)
    found = seen(bundle, config, tmp_path)
    ours = found.pop("sampan-oci")
    for peer, theirs in found.items():
        assert ours == theirs, (peer, theirs)
    assert not list((tmp_path / "sampan-oci").iterdir())


def test_the_life_of_a_container(bundle: Bundle, tmp_path: Path, runtime: Runtime) -> None:
    bundle.write(bundle.script("trap 'exit 0' TERM; while :; do sleep 0.05; done"))
    one, pid_file = name("life"), tmp_path / "pid"
    with (tmp_path / "out").open("w") as out:
        words = ["create", "--bundle", str(bundle.directory), "--pid-file", str(pid_file), one]
        made = subprocess.run(
            [*runtime.base, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
        )
    assert made.returncode == 0, (tmp_path / "out").read_text()
    assert runtime.status(one) == "created"
    state = json.loads(runtime("state", one).stdout)
    assert state["pid"] == int(pid_file.read_text())
    assert state["bundle"] == str(bundle.directory)
    assert runtime("create", "--bundle", str(bundle.directory), one).returncode != 0
    assert runtime("start", one).returncode == 0
    assert runtime.status(one) == "running"
    assert runtime("start", one).returncode != 0
    done = runtime("exec", one, "sh", "-c", "echo in; exit 4")
    assert (done.returncode, done.stdout) == (4, "in\n")
    done = runtime(
        "exec",
        "--env",
        "X=y",
        "--env",
        "PATH=/bin",
        "--user",
        "7:8",
        "--cwd",
        "/tmp",
        one,
        "sh",
        "-c",
        "id -u; id -g; echo $X; pwd",
    )
    assert done.stdout == "7\n8\ny\n/tmp\n", done.stderr
    assert runtime("exec", one, "nosuch").returncode != 0
    works_on_the_group(runtime, one, int(state["pid"]))
    assert one in runtime("list", "--quiet").stdout.split()
    assert runtime("delete", one).returncode != 0
    assert runtime("kill", one, "TERM").returncode == 0
    runtime.wait_for(one, "stopped")
    assert runtime("kill", one).returncode != 0
    assert runtime("exec", one, "true").returncode != 0
    assert runtime("delete", one).returncode == 0
    assert runtime("state", one).returncode != 0
    assert runtime("delete", one).returncode != 0
    assert runtime("delete", "--force", one).returncode == 0


def works_on_the_group(runtime: Runtime, one: str, pid: int) -> None:
    assert pid in json.loads(runtime("ps", "--format", "json", one).stdout)
    assert runtime("pause", one).returncode == 0
    assert runtime.status(one) == "paused"
    assert runtime("resume", one).returncode == 0
    assert runtime("update", "--pids-limit", "50", one).returncode == 0
    if runtime.name != "crun":  # it has no events
        sample = json.loads(runtime("events", "--stats", one).stdout)
        assert sample["type"] == "stats" and sample["data"]["pids"]["limit"] == 50


def test_a_missing_program_fails_create_and_leaves_nothing(
    bundle: Bundle, runtime: Runtime
) -> None:
    config = copy.deepcopy(bundle.config)
    config["process"]["args"] = ["nosuch"]
    bundle.write(config)
    done = runtime("create", "--bundle", str(bundle.directory), name("none"))
    assert done.returncode != 0
    assert "executable file" in done.stderr and "not found" in done.stderr
    assert runtime("list", "-q").stdout.split() == []


def test_hooks_run_in_order_with_the_state(
    bundle: Bundle, tmp_path: Path, runtime: Runtime
) -> None:
    log = tmp_path / "log"
    log.touch()
    config = bundle.script("true")
    # Also seen inside, for the hook that is looked up there.
    config["mounts"].append(
        {"destination": "/log", "type": "bind", "source": str(log), "options": ["bind"]}
    )

    def hook(kind: str, target: str) -> list[dict[str, Any]]:
        text = f"read line; case $line in *side-*) echo {kind} >> {target};; esac"
        return [{"path": "/bin/sh", "args": ["sh", "-c", text], "env": ["PATH=/bin"]}]

    outside = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    config["hooks"] = {kind: hook(kind, str(log)) for kind in outside}
    config["hooks"]["startContainer"] = hook("startContainer", "/log")
    bundle.write(config)
    done = runtime("run", "--bundle", str(bundle.directory), name("hooks"))
    assert done.returncode == 0, done.stderr
    wanted = list(outside)
    wanted.insert(3, "startContainer")
    assert sorted(log.read_text().split()) == sorted(wanted)
    assert log.read_text().split()[:3] == wanted[:3]


def test_a_hook_that_fails_stops_the_start(bundle: Bundle, runtime: Runtime) -> None:
    config = bundle.script("true")
    config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    bundle.write(config)
    assert runtime("run", "--bundle", str(bundle.directory), name("bad")).returncode != 0
    assert runtime("list", "-q").stdout.split() == []


def test_namespaces_by_path(bundle: Bundle, runtime: Runtime) -> None:
    holder = subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "sleep", "60"])
    try:
        deadline = time.monotonic() + 5
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own and time.monotonic() < deadline:
            time.sleep(0.01)
        config = bundle.script("ls -l /proc/self/ns/ | grep -o -E '(net|ipc):.*'")
        config["linux"]["namespaces"] = [
            {"type": "pid"},
            {"type": "mount"},
            {"type": "uts"},
            {"type": "network", "path": f"/proc/{holder.pid}/ns/net"},
            {"type": "ipc", "path": f"/proc/{holder.pid}/ns/ipc"},
        ]
        bundle.write(config)
        done = runtime("run", "--bundle", str(bundle.directory), name("ns"))
        for kind in ("net", "ipc"):
            assert os.readlink(f"/proc/{holder.pid}/ns/{kind}") in done.stdout
    finally:
        holder.kill()
        holder.wait()


def test_the_terminal_goes_over_the_console_socket(
    bundle: Bundle, tmp_path: Path, runtime: Runtime
) -> None:
    config = bundle.script("test -t 0 && test -t 2 && echo both")
    config["process"]["terminal"] = True
    bundle.write(config)
    one, path = name("tty"), str(tmp_path / "console")
    assert runtime("create", "--bundle", str(bundle.directory), one).returncode != 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        words = ["--bundle", str(bundle.directory), "--console-socket", path]
        done = runtime("create", *words, one)
        assert done.returncode == 0, done.stderr
        connection, _ = listener.accept()
        with connection:
            _, [master], _, _ = socket.recv_fds(connection, 256, 1)
    assert runtime("start", one).returncode == 0
    assert os.read(master, 64) == b"both\r\n"
    os.close(master)


@pytest.mark.parametrize("kept", [0, 2])
def test_preserved_descriptors(bundle: Bundle, runtime: Runtime, kept: int) -> None:
    bundle.write(
        bundle.script("test -e /proc/self/fd/3; echo $?; test -e /proc/self/fd/5; echo $?")
    )
    reader, writer = os.pipe()
    words = [*runtime.base, "run", "--preserve-fds", str(kept), "-b", str(bundle.directory)]
    shell = f'exec 3<&{reader} 4<&{reader}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", shell, "x", *words, name("fds")],
        pass_fds=[reader],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(reader)
    os.close(writer)
    assert done.stdout == ("0\n1\n" if kept else "1\n1\n"), done.stderr
