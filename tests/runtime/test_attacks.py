"""Known attacks on container engines, tried on this one."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import bind, output_of, upper

from sampan.linux import memfd
from sampan.runtime.errors import StartError
from sampan.runtime.spawner import Spawner
from sampan.runtime.types import ExecRequest, KeeperRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
MakeRequest = Callable[..., KeeperRequest]


async def test_the_interpreter_cannot_be_overwritten(spawner: Spawner) -> None:
    """CVE-2019-5736: what enters containers is a sealed copy, and closed to everyone."""
    image = os.open(f"/proc/{spawner.pid}/exe", os.O_RDONLY)
    try:
        assert os.readlink(f"/proc/{spawner.pid}/exe").startswith("/memfd:sampan-spawner")
        import fcntl

        assert fcntl.fcntl(image, 1034) & memfd.SEALS == memfd.SEALS  # F_GET_SEALS
    finally:
        os.close(image)
    with pytest.raises(OSError):
        os.open(f"/proc/{spawner.pid}/exe", os.O_WRONLY)


async def test_a_container_that_runs_its_runtime(
    spawner: Spawner, request_for: MakeRequest
) -> None:
    """CVE-2019-5736: ``/proc/self/exe`` as the command does not lead to a writable file."""
    request = request_for("/proc/self/exe", "-c", "open('/proc/self/exe', 'r+b')")
    try:
        text = await output_of(spawner, request)
    except StartError:
        return
    assert "Error" in text or "error" in text


@pytest.mark.parametrize("number", range(3, 14))
async def test_no_directory_of_the_host_as_working_directory(
    spawner: Spawner, request_for: MakeRequest, number: int
) -> None:
    """CVE-2024-21626: a leaked descriptor as the working directory."""
    request = request_for("cat", "/etc/passwd", cwd=f"/proc/self/fd/{number}")
    with pytest.raises(StartError):
        await output_of(spawner, request)


async def test_exec_has_no_directory_of_the_host(
    spawner: Spawner, request_for: MakeRequest
) -> None:
    """CVE-2024-21626 by exec."""
    keeper = await spawner.spawn(request_for("sleep", "1000"))
    try:
        for number in range(3, 14):
            process = {"args": ["pwd"], "cwd": f"/proc/self/fd/{number}", "env": []}
            with pytest.raises(StartError):
                await keeper.exec(ExecRequest(f"e{number}", process))
    finally:
        await keeper.signal(9)
        await keeper.wait_closed()


async def test_no_descriptor_is_inherited(spawner: Spawner, request_for: MakeRequest) -> None:
    text = await output_of(spawner, request_for("sh", "-c", "cd /proc/self/fd; echo *"))
    assert text.split() == ["0", "1", "2", "3"], "3 is the shell's own of the directory"


async def test_mount_targets_stay_inside(
    spawner: Spawner, request_for: MakeRequest, tmp_path: Path
) -> None:
    """CVE-2021-30465 and 2018-15664: a link at the place of a mount."""
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    outside.mkdir()
    volume.mkdir()
    (volume / "file").write_text("volume\n")
    request = request_for("cat", "/data/file", f"{outside}/file", "/deep/x/file")
    (upper(request) / "data").symlink_to(outside)
    (upper(request) / "deep").symlink_to("../../../../../../.." + str(outside))
    request.spec["mounts"] += [bind(volume, "/data"), bind(volume, "/deep/x")]
    assert await output_of(spawner, request) == "volume\n" * 3
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "sys"])
async def test_system_file_systems_need_true_directories(
    spawner: Spawner, request_for: MakeRequest, name: str
) -> None:
    """CVE-2019-16884 and 2023-27561: /proc as a link, so that masks miss it."""
    request = request_for("true")
    (upper(request) / "elsewhere").mkdir()
    (upper(request) / name).symlink_to("/elsewhere")
    with pytest.raises(StartError, match="is not a directory"):
        await output_of(spawner, request)


async def test_nothing_is_mounted_over_proc(
    spawner: Spawner, request_for: MakeRequest, tmp_path: Path
) -> None:
    for destination in ("/proc/self", "/proc/sys/kernel", "/proc//self/../self/attr"):
        request = request_for("true")
        request.spec["mounts"].append(bind(tmp_path, destination))
        with pytest.raises(StartError, match="inside /proc"):
            await output_of(spawner, request)


async def test_nothing_is_mounted_into_proc_through_a_link(
    spawner: Spawner, request_for: MakeRequest, tmp_path: Path
) -> None:
    """CVE-2019-16884: a link of the image leads a mount's destination into /proc."""
    links = {"all": "/proc", "settings": "/proc/sys", "own": "/proc/self", "again": "all"}
    for place in (*links, "all/sys", "settings/kernel", "own/attr", "again/fs"):
        request = request_for("true")
        for link, target in links.items():
            (upper(request) / link).symlink_to(target)
        request.spec["mounts"].append(bind(tmp_path, f"/{place}"))
        with pytest.raises(StartError, match="inside /proc"):
            await output_of(spawner, request)


async def test_only_procfs_is_mounted_on_proc(
    spawner: Spawner, request_for: MakeRequest, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("false\n")
    request = request_for("cat", "/proc/version")
    request.spec["mounts"].append(bind(tmp_path, "/proc"))
    with pytest.raises(StartError, match="not of type proc"):
        await output_of(spawner, request)


async def test_masks_do_not_trust_the_image(spawner: Spawner, request_for: MakeRequest) -> None:
    """CVE-2025-31133: the image's /dev/null is a link to something worth masking."""
    request = request_for("sh", "-c", "cat /proc/keys; echo x > /proc/keys; cat /proc/keys; id -u")
    request.spec["mounts"] = [
        entry for entry in request.spec["mounts"] if not entry["destination"].startswith("/dev")
    ]
    (upper(request) / "dev").mkdir()
    (upper(request) / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    assert await output_of(spawner, request) == "0\n"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern


async def test_system_settings_are_closed(spawner: Spawner, request_for: MakeRequest) -> None:
    """CVE-2022-0492 and the classics: release_agent, core_pattern, sysrq, mount, mknod of disks."""
    script = """
        for file in /sys/fs/cgroup/*/release_agent /proc/sys/kernel/core_pattern \
                /proc/sysrq-trigger /sys/kernel/uevent_helper; do
            (echo x > $file) 2>/dev/null && echo "wrote $file"
        done
        mkdir -p /tmp/c
        mount -t cgroup -o memory cgroup /tmp/c 2>/dev/null && echo mounted
        unshare -UrmC true 2>/dev/null && echo unshared
        mknod /tmp/disk b 8 0 2>/dev/null && cat /tmp/disk >/dev/null 2>&1 && echo read
        mknod /tmp/mem c 1 1 && cat /tmp/mem >/dev/null 2>&1 && echo memory
        echo done
    """
    assert await output_of(spawner, request_for("sh", "-c", script)) == "done\n"


async def test_hostile_user_files(spawner: Spawner, request_for: MakeRequest) -> None:
    """The files that users are looked up in may be anything; they are read inside the root."""
    request = request_for("grep", "Uid", "/proc/self/status", user="123")
    (upper(request) / "etc").mkdir()
    os.mkfifo(upper(request) / "etc/passwd")
    (upper(request) / "etc/group").symlink_to("/proc/self/environ")
    assert (await output_of(spawner, request)).split() == ["Uid:", *["123"] * 4]


async def test_the_processes_see_no_host(spawner: Spawner, request_for: MakeRequest) -> None:
    script = "ls /proc | grep -c '^[0-9]'; cat /proc/1/cmdline | tr '\\0' ' '"
    lines = (await output_of(spawner, request_for("sh", "-c", script))).splitlines()
    assert int(lines[0]) < 6
    assert lines[1].startswith("sh -c")


async def test_nothing_of_the_image_is_loaded(spawner: Spawner, request_for: MakeRequest) -> None:
    """CVE-2019-14271: libraries and modules that a look-up of names would load from inside.

    They are pipes that nobody writes to: whoever opened one would never come back.
    """
    request = request_for("sleep", "1000", user="bob")
    traps = ["etc/nsswitch.conf", "etc/ld.so.preload", "lib/x86_64-linux-gnu/libnss_files.so.2"]
    traps += [
        "usr/lib/python3.11/encodings/idna.py",
        "etc/localtime",
        "usr/lib/locale/locale-archive",
    ]
    for trap in traps:
        place = upper(request) / trap
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
    async with asyncio.timeout(20):
        keeper = await spawner.spawn(request)
        try:
            process = {"args": ["true"], "cwd": "/", "env": [], "user": {"username": "bob"}}
            await keeper.exec(ExecRequest("named", process))
        finally:
            await keeper.signal(9)
            await keeper.wait_closed()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"),
        ("net/../kernel/core_pattern", "|/evil"),
        ("net/ipv4/../../../self/root/proc/sys/kernel/core_pattern", "|/evil"),
        ("net...kernel.core_pattern", "|/evil"),
        ("../self/mem", "x"),
    ],
)
async def test_settings_set_no_other_ones(
    spawner: Spawner, request_for: MakeRequest, name: str, value: str
) -> None:
    """CVE-2022-0811: a kernel setting smuggled in by another's value or name."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    request = request_for("true")
    request.spec["linux"]["sysctl"] = {name: value}
    try:
        with pytest.raises(StartError, match="sysctl"):
            await output_of(spawner, request)
        assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    finally:
        Path("/proc/sys/kernel/core_pattern").write_text(before)


async def test_the_console_is_no_link(spawner: Spawner, request_for: MakeRequest) -> None:
    """CVE-2025-52565: the image's own /dev, with its console a link to a file of the kernel's."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    request = request_for("sh", "-c", "echo x > /dev/console; echo done", terminal=True)
    request.spec["mounts"] = [
        entry for entry in request.spec["mounts"] if entry["destination"] != "/dev"
    ]
    (upper(request) / "dev").mkdir()
    (upper(request) / "dev/console").symlink_to("/proc/sys/kernel/core_pattern")
    assert "done" in await output_of(spawner, request)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


async def test_only_procfs_is_written(
    spawner: Spawner, request_for: MakeRequest, tmp_path: Path
) -> None:
    """CVE-2025-52881: a false /proc that leads the runtime's writes elsewhere."""
    target = tmp_path / "target"
    target.write_text("kept")
    false = tmp_path / "false"
    for place in ("sys/net/ipv4", "1/attr", "self/attr"):
        (false / place).mkdir(parents=True)
    for link in ("sys/net/ipv4/ip_forward", "1/oom_score_adj", "1/attr/exec", "self/attr/exec"):
        (false / link).symlink_to(target)
    request = request_for("true")
    request.spec["mounts"] = [
        bind(false, "/proc") if entry["destination"] == "/proc" else entry
        for entry in request.spec["mounts"]
    ]
    request.spec["process"]["oomScoreAdj"] = 100
    request.spec["process"]["apparmorProfile"] = "unconfined"
    request.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    with pytest.raises(StartError):
        await output_of(spawner, request)
    request.spec["linux"]["sysctl"] = {}
    with pytest.raises(StartError):
        await output_of(spawner, request)
    assert target.read_text() == "kept"


def test_the_documented_attacks_are_here() -> None:
    """Each row of docs/security.md names tests that there are, which name its flaw."""
    tests = Path(__file__).parents[1]
    text = (tests.parent / "docs/security.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| 20")]
    known = {number for row in rows for number in row[1].replace(" ", "").split(",")}
    assert len(known) == 15
    for row in rows:
        places = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[4])
        assert places, row[1]
        sources = {place: (tests / place).read_text() for place, _ in places}
        for place, name in places:
            assert f"def {name}(" in sources[place] if name else True, (place, name)
        told = " ".join(sources.values())
        for number in row[1].replace(" ", "").split(","):
            assert number in told, number
