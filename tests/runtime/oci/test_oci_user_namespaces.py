"""User namespaces of bundles: the same as under crun and runc, and what they lack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sidebyside import PEERS, Bundle, Runtime, name

from sampan.linux import mount
from sampan.linux.idmap import mapping_namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FIRST = 100000
RANGE = {"containerID": 0, "hostID": FIRST, "size": 65536}
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def bundle() -> Iterator[Bundle]:
    """Its files are the container's root's; the host's other users can look in."""
    with tempfile.TemporaryDirectory(prefix="oci-users") as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "b").mkdir()
        found = Bundle(place / "b")
        for folder, _, files in os.walk(found.rootfs):
            os.chown(folder, FIRST, FIRST)
            for file in files:
                os.lchown(os.path.join(folder, file), FIRST, FIRST)
        yield found


def mapped(config: dict[str, Any], *ranges: dict[str, int]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [*(ranges or (RANGE,))]


def own(config: dict[str, Any]) -> None:
    mapped(config)


def another_user(config: dict[str, Any]) -> None:
    mapped(config)
    config["process"]["user"] = {"uid": 7, "gid": 8, "additionalGids": [9]}


def settings(config: dict[str, Any]) -> None:
    mapped(config)
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
    config["process"]["oomScoreAdj"] = 500
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]
    config["linux"]["maskedPaths"] = ["/proc/kcore", "/sys/firmware"]
    config["linux"]["readonlyPaths"] = ["/proc/sys"]
    config["root"]["readonly"] = True


def several(config: dict[str, Any]) -> None:
    mapped(
        config,
        {"containerID": 0, "hostID": FIRST, "size": 10},
        {"containerID": 10, "hostID": 300000, "size": 90},
    )
    config["process"]["user"] = {"uid": 20, "gid": 30}


def one_user(config: dict[str, Any]) -> None:
    """As tools without privileges write bundles: one user, the host's network, no limits."""
    mapped(config, {"containerID": 0, "hostID": FIRST, "size": 1})
    linux = config["linux"]
    linux["namespaces"] = [e for e in linux["namespaces"] if e["type"] != "network"]
    del linux["resources"]
    config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != "/sys"]
    options = ["rbind", "nosuid", "noexec", "nodev", "ro"]
    config["mounts"].append(
        {"destination": "/sys", "type": "none", "source": "/sys", "options": options}
    )


def administrator(config: dict[str, Any]) -> None:
    mapped(config)
    for kind in config["process"]["capabilities"].values():
        kind.append("CAP_SYS_ADMIN")


IDENTITY = (
    "id; cat /proc/self/uid_map /proc/self/gid_map; grep -E '^(Cap|Groups|Uid)' /proc/self/status;"
    "stat -c '%n %u:%g %a' / /bin/busybox /tmp /dev /dev/pts /dev/shm /proc /sys;"
    "touch /tmp/x && stat -c %u:%g /tmp/x; stat -c %u:%g /dev/fd/1"
)
CASES: list[tuple[str, Change]] = [
    (IDENTITY, own),
    (IDENTITY, another_user),
    (IDENTITY, several),
    (IDENTITY, one_user),
    ("cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj; ulimit -n", settings),
    ("cat /proc/kcore; ls /sys/firmware; touch /x 2>&1; touch /dev/shm/x && echo made", settings),
    ("hostname other && hostname; mount -t tmpfs x /tmp && stat -c %u /tmp", administrator),
]


@pytest.mark.parametrize(("script", "change"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_the_same_is_seen_inside(bundle: Bundle, tmp_path: Path, script: str, change: Any) -> None:
    (bundle.rootfs / "tmp").chmod(0o1777)
    config = bundle.script(script)
    change(config)
    bundle.write(config)
    found = {}
    for kind in ("sampan-oci", *PEERS):
        done = Runtime(kind, tmp_path / kind)("run", "-b", str(bundle.directory), name(kind))
        found[kind] = (done.returncode, done.stdout)
        if done.stderr:
            print(kind, done.stderr)
        for made in (bundle.rootfs / "tmp").iterdir():
            made.unlink()
    ours = found.pop("sampan-oci")
    assert ours[1]
    for peer, theirs in found.items():
        assert ours == theirs, (peer, theirs)


def test_files_and_processes_are_the_mapped_user_s(bundle: Bundle, runtime: Runtime) -> None:
    config = bundle.script("echo x > /made; exec sleep 60")
    mapped(config)
    bundle.write(config)
    one = name("users")
    with (bundle.directory / "out").open("w+") as out:
        words = [*runtime.base, "run", "-d", "-b", str(bundle.directory), one]
        done = subprocess.run(words, stdin=out, stdout=out, stderr=out, check=False)
    assert done.returncode == 0, (bundle.directory / "out").read_text()
    pid = json.loads(runtime("state", one).stdout)["pid"]
    assert f"Uid:\t{FIRST}" in Path(f"/proc/{pid}/status").read_text()
    script = "id -u; cat /proc/self/uid_map; touch /by-exec; grep -E '^Cap' /proc/self/status"
    done = runtime("exec", one, "sh", "-c", script)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["0", f"{0:>10} {FIRST:>10} {65536:>10}"], done.stderr
    assert {line.split()[1] for line in lines[4:6]} == {"00000000000004e1"}
    done = runtime("exec", "--user", "7:8", one, "sh", "-c", "id -u; id -g")
    assert done.stdout == "7\n8\n", done.stderr
    owners = {bundle.rootfs.joinpath(file).stat().st_uid for file in ("made", "by-exec")}
    assert owners == {FIRST}
    for kind in ("user", "mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert runtime("delete", "--force", one).returncode == 0


@pytest.fixture
def held() -> Iterator[int]:
    """A process in a user namespace (and a network namespace that belongs to it)."""
    holder = subprocess.Popen(
        ["unshare", "--user", "--net", "sh", "-c", "echo in; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{kind}").write_text(f"0 {FIRST} 65536\n")
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def by_path(config: dict[str, Any], pid: int) -> None:
    kinds = [e for e in config["linux"]["namespaces"] if e["type"] != "network"]
    kinds += [
        {"type": "user", "path": f"/proc/{pid}/ns/user"},
        {"type": "network", "path": f"/proc/{pid}/ns/net"},
    ]
    config["linux"]["namespaces"] = kinds


def test_a_namespace_by_path(bundle: Bundle, tmp_path: Path, held: int) -> None:
    script = "id -u; cat /proc/self/uid_map; ls -l /proc/self/ns | grep -oE '(net|user):.*'"
    config = bundle.script(script)
    by_path(config, held)
    bundle.write(config)
    wanted = [os.readlink(f"/proc/{held}/ns/{kind}") for kind in ("net", "user")]
    done = Runtime("sampan-oci", tmp_path / "o")("run", "-b", str(bundle.directory), name("path"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0", str(FIRST), "65536", *wanted]
    config["linux"]["uidMappings"] = [{**RANGE, "hostID": FIRST + 1}]
    bundle.write(config)
    done = Runtime("sampan-oci", tmp_path / "o")("run", "-b", str(bundle.directory), name("path"))
    assert done.returncode != 0
    assert "uidMappings is not the mapping of the user namespace" in done.stderr


def test_a_mount_takes_the_container_s_mapping(bundle: Bundle, tmp_path: Path) -> None:
    """As podman's ``--volume=…:idmap``: on disk the files stay the host's root's."""
    data = bundle.directory / "data"
    (data / "below").mkdir(parents=True)
    config = bundle.script("stat -c '%u:%g' /data /data/below; touch /data/new")
    mapped(config)
    for options in (["bind", "idmap"], ["rbind", "ridmap"]):
        entry = {"destination": "/data", "type": "bind", "source": str(data), "options": options}
        bundle.write({**config, "mounts": [*config["mounts"], entry]})
        run = Runtime("sampan-oci", tmp_path / "o")
        done = run("run", "-b", str(bundle.directory), name("idmap"))
        assert done.stdout == "0:0\n0:0\n", done.stderr
        assert (data / "new").stat().st_uid == 0


def test_a_root_that_is_an_id_mapped_mount(bundle: Bundle, tmp_path: Path) -> None:
    """On disk it is the host's root's; the caller of the runtime maps it, as podman does."""
    for folder, _, files in os.walk(bundle.rootfs):
        os.chown(folder, 0, 0)
        for file in files:
            os.lchown(os.path.join(folder, file), 0, 0)
    place = bundle.directory / "mapped"
    place.mkdir()
    users = mapping_namespace([(0, FIRST, 65536)], [(0, FIRST, 65536)])
    tree = mount.open_tree(-100, str(bundle.rootfs))
    mount.mount_setattr(tree, set=mount.MOUNT_ATTR_IDMAP, userns_fd=users)
    mount.move_mount_to(tree, str(place))
    try:
        os.close(tree)
        os.close(users)
        config = bundle.script("stat -c '%u:%g' / /bin/busybox; echo x > /made")
        config["root"]["path"] = str(place)
        mapped(config)
        bundle.write(config)
        run = Runtime("sampan-oci", tmp_path / "o")
        done = run("run", "-b", str(bundle.directory), name("root"))
        assert done.stdout == "0:0\n0:0\n", done.stderr
        assert (bundle.rootfs / "made").stat().st_uid == 0
    finally:
        mount.umount(str(place))
        shutil.rmtree(place)


def test_a_terminal_is_the_mapped_user_s(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.script("stat -c %u /dev/pts/0; test -t 0 && echo terminal")
    mapped(config)
    config["process"]["terminal"] = True
    bundle.write(config)
    run = Runtime("sampan-oci", tmp_path / "o")
    done = run("run", "-b", str(bundle.directory), name("tty"))
    assert done.stdout.split() == ["0", "terminal"], done.stderr


def test_the_host_s_null_device_keeps_its_owner(bundle: Bundle, tmp_path: Path) -> None:
    config = bundle.script("true")
    another_user(config)
    bundle.write(config)
    run = Runtime("sampan-oci", tmp_path / "o")
    words = [*run.base, "run", "-b", str(bundle.directory), name("null")]
    null = subprocess.DEVNULL
    assert subprocess.run(words, stdin=null, stdout=null, stderr=null, check=False).returncode == 0
    assert os.stat(os.devnull).st_uid == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["linux"].update(uidMappings=[RANGE]), "without a new user namespace"),
        (lambda c: mapped(c, {**RANGE, "containerID": 5}), "0 is not mapped"),
        (lambda c: c["linux"]["namespaces"].append({"type": "user"}), "0 is not mapped"),
        (lambda c: mapped(c, RANGE, RANGE), "is refused by the kernel"),
    ],
)
def test_mappings_that_cannot_be(bundle: Bundle, tmp_path: Path, change: Change, text: str) -> None:
    config = bundle.script("true")
    change(config)
    bundle.write(config)
    done = Runtime("sampan-oci", tmp_path / "o")("run", "-b", str(bundle.directory), name("bad"))
    assert done.returncode != 0
    assert text in done.stderr
    assert not list((tmp_path / "o").glob("*"))


def test_a_bundle_for_one_user(bundle: Bundle, tmp_path: Path) -> None:
    run = Runtime("sampan-oci", tmp_path / "o")
    for folder, _, files in os.walk(bundle.rootfs):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            os.lchown(path, 0, 0)
    assert run("spec", "--rootless", "-b", str(bundle.directory)).returncode == 0
    config = json.loads((bundle.directory / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "id -u; cat /proc/self/uid_map"]}
    config["process"]["env"] = ["PATH=/bin"]
    bundle.write(config)
    done = run("run", "-b", str(bundle.directory), name("one"))
    assert done.stdout.split() == ["0", "0", "0", "1"], done.stderr
