"""Containers whose root is an unprivileged user of the host."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_keeper import MakeRequest, Run, read_all, run, run_exec  # noqa: F401

from sampan.runtime import userns
from sampan.runtime.errors import StartError
from sampan.runtime.types import AttachRequest, Exited, KeeperRequest

FIRST = 300_000


def remapped(request: KeeperRequest, **more: Any) -> KeeperRequest:
    linux = request.spec["linux"]
    linux["namespaces"].append({"type": "user"})
    ids = [{"containerID": 0, "hostID": FIRST, "size": 65536}]
    linux.update({"uidMappings": ids, "gidMappings": ids, **more})
    return request


async def output(run: Run, request: KeeperRequest) -> str:  # noqa: F811
    (client,) = await run.start(request, AttachRequest(raw=True))
    text = (await read_all(client)).decode()
    await run.event(Exited)
    return text


async def test_owners(run: Run, request_for: MakeRequest, lower: Path) -> None:  # noqa: F811
    """Inside, files have their own numbers; on the host what is written keeps them."""
    script = """
        cat /proc/self/uid_map
        stat -c '%n %u:%g' /bin/busybox /home/bob /dev /dev/pts /dev/null /dev/shm /dev/pts/ptmx
        touch /new; chown 1000:50 /new; chown bob /etc/passwd; mkdir /tmp/d
        echo hello > /dev/stderr
        id -u; id -g
    """
    request = remapped(request_for("sh", "-c", script))
    lines = (await output(run, request)).splitlines()
    assert lines[0].split() == ["0", str(FIRST), "65536"]
    assert lines[1:8] == [
        "/bin/busybox 0:0",
        "/home/bob 1000:1001",
        "/dev 0:0",
        "/dev/pts 0:0",
        "/dev/null 0:0",
        "/dev/shm 0:0",
        "/dev/pts/ptmx 0:0",
    ]
    assert sorted(lines[8:]) == ["0", "0", "hello"]
    (root,) = request.rootfs
    upper = Path(next(item for item in root.options if item.startswith("upperdir="))[9:])
    new, passwd = (upper / "new").stat(), (upper / "etc/passwd").stat()
    assert (new.st_uid, new.st_gid) == (1000, 50)
    assert (passwd.st_uid, passwd.st_gid) == (1000, 0)
    assert (upper / "tmp/d").stat().st_uid == 0
    # The image is as it was.
    assert (lower / "etc/passwd").stat().st_uid == 0


async def test_root_is_nobody_on_the_host(
    run: Run,  # noqa: F811
    request_for: MakeRequest,
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o755)
    (secret / "file").write_text("x")
    (secret / "file").chmod(0o600)
    mapped = tmp_path / "volume"
    mapped.mkdir()
    (mapped / "own").write_text("y")
    request = remapped(
        request_for(
            "sh",
            "-c",
            "cat /s/file; touch /s/new; cat /v/own; touch /v/new; umount /s; mount -t tmpfs x /mnt",
        )
    )
    request.spec["mounts"] += [
        {"destination": "/s", "type": "bind", "source": str(secret), "options": ["rbind"]},
        {"destination": "/v", "type": "bind", "source": str(mapped), "options": ["bind", "idmap"]},
    ]
    for name in ("bounding", "effective", "permitted"):
        request.spec["process"]["capabilities"][name].append("CAP_SYS_ADMIN")
    request.spec["linux"]["seccomp"] = None
    text = await output(run, request)
    assert "can't open '/s/file': Permission denied" in text
    assert "touch: /s/new: Permission denied" in text
    assert "y" in text.splitlines() or "y" in text
    assert (mapped / "new").stat().st_uid == 0
    # What was mounted before the namespace was entered is locked.
    assert "can't unmount /s: Invalid argument" in text


async def test_exec_and_terminal(run: Run, request_for: MakeRequest) -> None:  # noqa: F811
    request = remapped(request_for("sleep", "1000"))
    await run.start(request)
    assert run.keeper is not None
    status = Path(f"/proc/{run.keeper.state.pid}/status").read_text()
    assert f"Uid:\t{FIRST}" in status
    code, data = await run_exec(
        run, "sh", "-c", "id -u; echo x > /dev/stdout; cat /proc/$$/uid_map"
    )
    assert (code, data.split()) == (0, [b"0", b"x", b"0", str(FIRST).encode(), b"65536"])
    code, data = await run_exec(
        run, "sh", "-c", "tty; id -u", terminal=True, user={"username": "bob"}
    )
    assert (code, data) == (0, b"/dev/pts/0\r\n1000\r\n")
    await run.keeper.signal(signal.SIGKILL)
    await run.event(Exited)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"uidMappings": []}, "user or group 0 is not mapped"),
        ({"gidMappings": [{"containerID": 1, "hostID": 1, "size": 1}]}, "0 is not mapped"),
        (
            {"uidMappings": [{"containerID": 0, "hostID": 5, "size": 2}] * 2},
            "is refused by the kernel",
        ),
    ],
)
async def test_bad_mappings(
    run: Run,  # noqa: F811
    request_for: MakeRequest,
    change: dict[str, Any],
    text: str,
) -> None:
    with pytest.raises(StartError, match=text):
        await run.start(remapped(request_for("true"), **change))


@given(st.integers(0, 70000))
def test_numbers(inside: int) -> None:
    parts = (userns.Range(0, 1000, 10), userns.Range(10, 5000, 60000))
    mapping = userns.Mapping(parts, parts)
    if inside < 60010:
        expected = 1000 + inside if inside < 10 else 5000 + inside - 10
        assert mapping.uid(inside) == mapping.gid(inside) == expected
    else:
        with pytest.raises(ValueError, match="not mapped"):
            mapping.uid(inside)
