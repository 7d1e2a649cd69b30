"""Containers through spawner and keeper: the whole path, with a busybox root."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.mount import mount, umount
from sampan.runtime.control import Keeper, read_state
from sampan.runtime.errors import KeeperGone, StartError
from sampan.runtime.spawner import Spawner
from sampan.runtime.types import (
    AttachRequest,
    Detached,
    ExecExited,
    ExecRequest,
    Exited,
    KeeperEvent,
    KeeperRequest,
    Paused,
    Unpaused,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
MakeRequest = Callable[..., KeeperRequest]


class Run:
    """One container under test: its events and the near ends of its clients."""

    def __init__(self, spawner: Spawner, brief: bool = False) -> None:
        self.spawner = spawner
        self.brief = brief
        self.events: list[KeeperEvent] = []
        self.keeper: Keeper | None = None
        self._changed = asyncio.Event()

    def note(self, event: KeeperEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def start(self, request: KeeperRequest, *attaches: AttachRequest) -> list[socket.socket]:
        near, far = [], []
        for _ in attaches:
            one, other = socket.socketpair()
            one.setblocking(False)
            near.append(one)
            far.append(other)
        request.attaches = list(attaches)
        self.keeper = await self.spawner.spawn(
            request,
            attach_fds=[end.fileno() for end in far],
            on_event=self.note,
            brief=self.brief,
        )
        for end in far:
            end.close()
        return near

    async def event(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(20):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self._changed.clear()
                await self._changed.wait()


async def read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(20):
        while part := await loop.sock_recv(sock, 65536):
            data += part
    sock.close()
    return data


async def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(20):
        while wanted not in data:
            part = await loop.sock_recv(sock, 65536)
            assert part, f"the stream ended after {data!r}"
            data += part
    return data


def demultiplex(data: bytes) -> dict[int, bytes]:
    streams = {1: b"", 2: b""}
    while data:
        size = int.from_bytes(data[4:8], "big")
        streams[data[0]] += data[8 : 8 + size]
        data = data[8 + size :]
    return streams


@pytest.fixture
def run(spawner: Spawner) -> Run:
    return Run(spawner)


Output = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def output(spawner: Spawner, request_for: MakeRequest) -> Output:
    """Run a container to its end; its exit code, and its output of both streams."""

    async def go(
        *args: str, change: Callable[[KeeperRequest], None] | None = None, **options: Any
    ) -> tuple[int, str]:
        this = Run(spawner)
        request = request_for(*args, **options)
        if change:
            change(request)
        (client,) = await this.start(request, AttachRequest(raw=True))
        text = (await read_all(client)).decode()
        exited = await this.event(Exited)
        assert this.keeper is not None
        await this.keeper.wait_closed()
        return exited.code, text

    return go


async def test_output_and_exit_code(output: Output) -> None:
    assert await output("sh", "-c", "echo hello; exit 3") == (3, "hello\n")


async def test_streams_are_told_apart(run: Run, request_for: MakeRequest) -> None:
    (client,) = await run.start(request_for("sh", "-c", "echo out; echo err >&2"), AttachRequest())
    assert demultiplex(await read_all(client)) == {1: b"out\n", 2: b"err\n"}


async def test_a_signal_is_128_more(run: Run, request_for: MakeRequest) -> None:
    await run.start(request_for("sleep", "1000"))
    assert run.keeper is not None
    await run.keeper.signal(signal.SIGKILL)
    assert (await run.event(Exited)).code == 137


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("nosuch",), 127, 'exec: "nosuch": executable file not found in $PATH'),
        (("/nosuch",), 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (("/etc/not-executable",), 126, 'exec: "/etc/not-executable": permission denied'),
        (("/etc",), 126, 'exec: "/etc": is a directory'),
        (("garbage",), 126, "exec garbage: exec format error"),
        (("script-without-interpreter",), 127, "no such file or directory"),
    ],
)
async def test_start_errors(
    run: Run, request_for: MakeRequest, args: tuple[str, ...], code: int, text: str
) -> None:
    request = request_for(*args)
    with pytest.raises(StartError) as failure:
        await run.start(request)
    assert text in str(failure.value)
    assert failure.value.exit_code == code
    assert not list(Path("/sys/fs/cgroup").glob(f"*/sampan-test/{request.id}"))


async def test_state_is_recorded(run: Run, request_for: MakeRequest) -> None:
    request = request_for("sh", "-c", "read x; exit 5", open_stdin=True, stdin_once=True)
    (client,) = await run.start(request, AttachRequest(stdin=True))
    state = read_state(Path(request.run_dir))
    assert state is not None
    assert (state.status, state.pid) == ("running", run.keeper and run.keeper.pid)
    client.close()
    await run.event(Exited)
    state = read_state(Path(request.run_dir))
    assert state is not None
    assert (state.status, state.exit_code) == ("exited", 5)


async def test_stdin_to_stdout_is_exact(run: Run, request_for: MakeRequest) -> None:
    request = request_for("cat", open_stdin=True, stdin_once=True)
    (client,) = await run.start(request, AttachRequest(stdin=True, raw=True, initial=b"first "))
    data = os.urandom(8 << 20)

    async def send() -> None:
        await asyncio.get_running_loop().sock_sendall(client, data)
        client.shutdown(socket.SHUT_WR)

    sender = asyncio.create_task(send())
    received = await read_all(client)
    await sender
    assert received == b"first " + data
    assert (await run.event(Exited)).code == 0


async def test_a_client_that_does_not_read_holds_the_output_back(
    run: Run, request_for: MakeRequest
) -> None:
    request = request_for("sh", "-c", "head -c 20000000 /dev/zero; echo done >&2")
    (client,) = await run.start(request, AttachRequest(raw=True))
    assert run.keeper is not None
    before = memory_of(run.keeper.keeper_pid)
    # No event tells that the keeper has stopped reading; its memory must not grow meanwhile.
    for _ in range(20):
        await run.keeper.refresh()
        await asyncio.sleep(0.01)
    assert memory_of(run.keeper.keeper_pid) - before < 4 << 20
    assert len(await read_all(client)) == 20000000 + len("done\n")
    await run.event(Exited)


def memory_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


async def test_several_clients_and_a_late_one(run: Run, request_for: MakeRequest) -> None:
    request = request_for("sh", "-c", "echo one; read x; echo two", open_stdin=True)
    both = AttachRequest(stdin=True, raw=True)
    first, second = await run.start(request, both, AttachRequest(raw=True))
    await read_until(first, b"one\n")
    await read_until(second, b"one\n")
    near, far = socket.socketpair()
    near.setblocking(False)
    assert run.keeper is not None
    await run.keeper.attach(AttachRequest(raw=True), far.fileno())
    far.close()
    await asyncio.get_running_loop().sock_sendall(first, b"go\n")
    for client in (first, second, near):
        assert await read_all(client) == b"two\n"


async def test_terminal(run: Run, request_for: MakeRequest) -> None:
    request = request_for(
        "sh", "-c", "tty; stty size; read x; echo got $x", terminal=True, open_stdin=True
    )
    request.spec["process"]["consoleSize"] = {"height": 33, "width": 77}
    (client,) = await run.start(request, AttachRequest(stdin=True, raw=True))
    await read_until(client, b"/dev/pts/0\r\n33 77\r\n")
    await asyncio.get_running_loop().sock_sendall(client, b"word\n")
    assert await read_all(client) == b"word\r\ngot word\r\n"


async def test_resize(run: Run, request_for: MakeRequest) -> None:
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done"
    request = request_for("sh", "-c", script, terminal=True, open_stdin=True)
    (client,) = await run.start(request, AttachRequest(raw=True))
    await read_until(client, b"ready\r\n")
    assert run.keeper is not None
    await run.keeper.resize(41, 99)
    assert await read_all(client) == b"41 99\r\n"


async def test_detach_keys(run: Run, request_for: MakeRequest) -> None:
    request = request_for("cat", terminal=True, open_stdin=True)
    keys = AttachRequest(stdin=True, raw=True, detach_keys=b"\x10\x11")
    (client,) = await run.start(request, keys)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"hi\n")
    await read_until(client, b"hi\r\nhi\r\n")
    await loop.sock_sendall(client, b"\x10")
    await loop.sock_sendall(client, b"\x11")
    assert await read_all(client) == b""
    assert (await run.event(Detached)).exec_id == ""
    assert run.keeper is not None
    await run.keeper.signal(signal.SIGKILL)
    await run.event(Exited)


async def run_exec(
    run: Run, *args: str, terminal: bool = False, **process: Any
) -> tuple[int, bytes]:
    assert run.keeper is not None
    near, far = socket.socketpair()
    near.setblocking(False)
    request = ExecRequest(
        f"e{len(run.events)}",
        {"args": list(args), "cwd": "/", "env": [], "terminal": terminal, **process},
        attaches=[AttachRequest(raw=True)],
    )
    try:
        await run.keeper.exec(request, [far.fileno()])
    finally:
        far.close()
    data = await read_all(near)
    return (await run.event(ExecExited)).code, data


async def test_exec(run: Run, request_for: MakeRequest) -> None:
    await run.start(request_for("sleep", "1000", hostname="box"))
    code, data = await run_exec(run, "sh", "-c", "hostname; echo $$ $HOME; exit 9")
    assert code == 9
    lines = data.decode().split("\n")
    assert lines[0] == "box"
    assert lines[1].split()[1] == "/root"
    assert int(lines[1].split()[0]) < 10
    assert run.keeper is not None
    await run.keeper.signal(signal.SIGKILL)
    await run.event(Exited)


async def test_exec_with_a_terminal_and_a_user(run: Run, request_for: MakeRequest) -> None:
    await run.start(request_for("sleep", "1000"))
    code, data = await run_exec(run, "sh", "-c", "tty; id", terminal=True, user={"username": "bob"})
    assert code == 0
    assert data == b"/dev/pts/0\r\nuid=1000(bob) gid=1001(bob) groups=50(staff),1001(bob)\r\n"
    assert run.keeper is not None
    await run.keeper.signal(signal.SIGKILL)
    await run.event(Exited)


async def test_exec_of_nothing(run: Run, request_for: MakeRequest) -> None:
    await run.start(request_for("sleep", "1000"))
    with pytest.raises(StartError) as failure:
        await run_exec(run, "nosuch")
    assert 'exec: "nosuch": executable file not found in $PATH' in str(failure.value)
    assert failure.value.exit_code == 127
    assert run.keeper is not None
    await run.keeper.signal(signal.SIGKILL)
    await run.event(Exited)


async def test_pause_and_resume(run: Run, request_for: MakeRequest) -> None:
    request = request_for("sh", "-c", "while :; do echo x; sleep 0.01; done")
    (client,) = await run.start(request, AttachRequest(raw=True))
    await read_until(client, b"x\n")
    assert run.keeper is not None
    await run.keeper.pause()
    await run.event(Paused)
    assert run.keeper.state.status == "paused"
    with pytest.raises(StartError, match="paused"):
        await run_exec(run, "true")
    await run.keeper.resume()
    await run.event(Unpaused)
    await run.keeper.signal(signal.SIGKILL)
    await run.event(Exited)


async def test_another_daemon_takes_over(run: Run, request_for: MakeRequest) -> None:
    request = request_for("sh", "-c", "read x; exit 7", open_stdin=True)
    await run.start(request)
    assert run.keeper is not None
    run.keeper.close()
    events: list[KeeperEvent] = []
    again = await Keeper.connect(Path(request.run_dir), events.append)
    assert again.state.id == request.id
    assert again.state.status == "running"
    near, far = socket.socketpair()
    await again.attach(AttachRequest(stdin=True), far.fileno())
    near.send(b"x\n")
    await again.wait_closed()
    assert [event.code for event in events if isinstance(event, Exited)] == [7]
    with pytest.raises(KeeperGone):
        await Keeper.connect(Path(request.run_dir))


async def test_the_keeper_outlives_the_spawner(request_for: MakeRequest) -> None:
    spawner = await Spawner.start()
    run = Run(spawner)
    request = request_for("sh", "-c", "read x; exit 4", open_stdin=True)
    (client,) = await run.start(request, AttachRequest(stdin=True))
    os.kill(spawner.pid, signal.SIGKILL)
    await spawner.close()
    client.send(b"\n")
    assert (await run.event(Exited)).code == 4
    with pytest.raises(StartError, match="ended"):
        await run.spawner.spawn(request_for("true"))


async def test_a_keeper_that_is_killed(run: Run, request_for: MakeRequest) -> None:
    await run.start(request_for("sleep", "1000"))
    assert run.keeper is not None
    pid = os.pidfd_open(run.keeper.pid)
    os.kill(run.keeper.keeper_pid, signal.SIGKILL)
    exited = await run.event(Exited)
    assert (exited.code, exited.error) == (255, "the keeper of the container was killed")
    await run.keeper.wait_closed()
    assert select.select([pid], [], [], 5)[0], "its processes are killed"
    os.close(pid)


async def test_a_keeper_that_was_killed_unseen(run: Run, request_for: MakeRequest) -> None:
    request = request_for("sleep", "1000")
    await run.start(request)
    assert run.keeper is not None
    pid = os.pidfd_open(run.keeper.pid)
    run.keeper.close()
    keeper = os.pidfd_open(run.keeper.keeper_pid)
    os.kill(run.keeper.keeper_pid, signal.SIGKILL)
    assert select.select([keeper], [], [], 5)[0]
    with pytest.raises(KeeperGone):
        await Keeper.connect(Path(request.run_dir))
    assert select.select([pid], [], [], 5)[0], "its processes are killed"
    os.close(pid)
    os.close(keeper)


async def test_init_reaps_and_forwards(run: Run, request_for: MakeRequest) -> None:
    script = "trap 'exit 12' TERM; (sleep 0.01 &); echo $$; while :; do sleep 0.05; done"
    request = request_for("sh", "-c", script, init=True)
    (client,) = await run.start(request, AttachRequest(raw=True))
    assert await read_until(client, b"\n") != b"1\n"
    assert run.keeper is not None
    await run.keeper.signal(signal.SIGTERM)
    assert (await run.event(Exited)).code == 12


async def test_init_shows_nothing_of_the_host(output: Output) -> None:
    code, text = await output("cat", "/proc/1/cmdline", init=True)
    assert code == 0
    assert text.rstrip("\0") == "sampan-init\0--\0cat\0/proc/1/cmdline"


async def test_users_and_groups(output: Output) -> None:
    assert await output("id", user="bob") == (
        0,
        "uid=1000(bob) gid=1001(bob) groups=50(staff),1001(bob)\n",
    )
    _, text = await output("id", user="1000:audio", groups=["staff"])
    assert text == "uid=1000(bob) gid=29(audio) groups=29(audio),50(staff)\n"
    assert (await output("sh", "-c", "echo $HOME; pwd", user="bob", cwd="/home/bob"))[1] == (
        "/home/bob\n/home/bob\n"
    )


async def test_unknown_user(run: Run, request_for: MakeRequest) -> None:
    with pytest.raises(StartError, match="unable to find user nobody"):
        await run.start(request_for("true", user="nobody"))


async def test_read_only_root_and_tmpfs(output: Output) -> None:
    def change(request: KeeperRequest) -> None:
        request.spec["mounts"].append(
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}
        )

    script = "(echo x > /a) 2>/dev/null || echo refused; echo x > /scratch/a && cat /scratch/a"
    _, text = await output("sh", "-c", script, read_only=True, change=change)
    assert text == "refused\nx\n"


async def test_bind_mounts(output: Output, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("content\n")

    def change(request: KeeperRequest) -> None:
        for destination, options in (("/a/b", ["rbind"]), ("/ro", ["rbind", "ro"])):
            request.spec["mounts"].append(
                {
                    "destination": destination,
                    "type": "bind",
                    "source": str(tmp_path / "data"),
                    "options": options,
                }
            )
        request.spec["mounts"].append(
            {
                "destination": "/etc/one",
                "type": "bind",
                "source": str(tmp_path / "data/file"),
                "options": ["bind"],
            }
        )

    script = (
        "cat /a/b/file /ro/file /etc/one; echo new > /a/b/new; touch /ro/x 2>/dev/null || echo ro"
    )
    assert await output("sh", "-c", script, change=change) == (0, "content\n" * 3 + "ro\n")
    assert (tmp_path / "data/new").read_text() == "new\n"


async def test_sysctl_and_hostname(output: Output) -> None:
    def change(request: KeeperRequest) -> None:
        request.spec["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1"}

    script = "hostname; cat /proc/sys/kernel/shm_rmid_forced"
    assert (await output("sh", "-c", script, hostname="boat", change=change))[1] == "boat\n1\n"


async def test_memory_limit_kills(run: Run, request_for: MakeRequest) -> None:
    request = request_for("sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
    request.spec["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    await run.start(request)
    exited = await run.event(Exited)
    assert exited.code == 137
    assert exited.oom_killed


async def test_the_default_filter_is_on(output: Output) -> None:
    script = "grep Seccomp: /proc/self/status; unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1"
    _, text = await output("sh", "-c", script)
    lines = text.splitlines()
    assert lines[0].split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in lines[1]
    assert "ermission denied" in lines[2] or "not permitted" in lines[2]


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("linux", "intelRdt", {"closID": "x"}),
        ("linux", "personality", {"domain": "AMIGA"}),
        ("process", "scheduler", {"policy": "SCHED_IDLE"}),
        (None, "hooks", {"prestart": [{"path": "/bin/true"}]}),
    ],
)
async def test_what_is_not_done_is_refused(
    run: Run, request_for: MakeRequest, where: str | None, name: str, value: Any
) -> None:
    request = request_for("true")
    part = request.spec[where] if where else request.spec
    part[name] = value
    with pytest.raises(StartError, match=name):
        await run.start(request)


async def test_personality(output: Output) -> None:
    def change(request: KeeperRequest) -> None:
        request.spec["linux"]["personality"] = {"domain": "LINUX32"}

    assert (await output("uname", "-m", change=change))[1] == "i686\n"


async def test_no_new_privileges(output: Output) -> None:
    def change(request: KeeperRequest) -> None:
        request.spec["process"]["noNewPrivileges"] = True

    _, text = await output("grep", "-E", "NoNewPrivs|Seccomp:", "/proc/self/status", change=change)
    assert text.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def mount_table(text: str) -> list[tuple[str, ...]]:
    """What /proc/self/mountinfo says, without the numbers that are each container's own."""
    rows = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, root, place, options, *shared = before.split()
        kind, source, *details = after.split()
        details = [] if kind == "overlay" else details
        root = "" if kind.startswith("cgroup") else root
        rows.append((kind, place, root, options, *shared, source, *details))
    return sorted(rows)


async def test_mounts_made_ahead_are_as_others(output: Output) -> None:
    def differently(request: KeeperRequest) -> None:
        # The same in another order is not what was made ahead.
        request.spec["linux"]["maskedPaths"].reverse()

    show = "cat /proc/self/mountinfo; echo ==; ls -ln /dev /dev/shm; cat /sys/class/net/*/address"
    tables = []
    for change in (None, differently):
        code, text = await output("sh", "-c", show, change=change, network=True)
        assert code == 0, text
        mounts, _, devices = text.partition("==\n")
        tables.append((mount_table(mounts), [line.split()[:6] for line in devices.splitlines()]))
    assert tables[0] == tables[1]
    assert {"/proc", "/dev/shm", "/proc/keys", "/proc/sys"} <= {row[1] for row in tables[0][0]}


async def test_settings_of_mounts_made_ahead_are_read_only_inside(output: Output) -> None:
    def change(request: KeeperRequest) -> None:
        request.spec["linux"]["sysctl"] = {"net.ipv4.ip_default_ttl": "33"}

    script = "cat /proc/sys/net/ipv4/ip_default_ttl; echo 1 > /proc/sys/net/ipv4/ip_default_ttl"
    code, text = await output("sh", "-c", script, change=change, network=True)
    assert (code, text.splitlines()[0]) == (1, "33")
    assert "Read-only file system" in text


def waiting(spawner: int) -> int:
    """The process that waits to become a container's first one: in namespaces of its own."""
    found = [spawner]
    for pid in found:
        path = Path(f"/proc/{pid}/task/{pid}/children")
        found += [int(word) for word in path.read_text().split()]
    (only,) = [pid for pid in found if os.readlink(f"/proc/{pid}/ns/uts") != HOST_NAMES]
    return only


HOST_NAMES = os.readlink("/proc/self/ns/uts")
MADE_AHEAD = {"tmpfs", "proc", "devpts", "sysfs", "mqueue", "devtmpfs"}
"""Kinds of file systems; the last one holds the host's null device."""


async def test_a_waiting_process_sees_none_of_the_hosts_mounts(
    spawner: Spawner, output: Output
) -> None:
    # There is one as soon as a container has ended.
    await output("true")
    async with asyncio.timeout(20):
        while True:
            try:
                mounts = mount_table(Path(f"/proc/{waiting(spawner.pid)}/mountinfo").read_text())
            except (ValueError, OSError):
                mounts = []
            # The last step of its work is to leave the host's tree.
            if mounts and {row[0] for row in mounts} <= MADE_AHEAD:
                return
            await asyncio.sleep(0.01)


async def test_what_the_host_has_mounted_meanwhile_can_be_bound(
    spawner: Spawner, output: Output, tmp_path: Path
) -> None:
    place = tmp_path / "late"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs")
    try:
        (place / "word").write_text("seen")

        def change(request: KeeperRequest) -> None:
            request.spec["mounts"].append(
                {"destination": "/late", "type": "bind", "source": str(place), "options": ["bind"]}
            )

        assert await output("cat", "/late/word", change=change) == (0, "seen")
    finally:
        umount(str(place), 0)


async def test_brief_containers(spawner: Spawner, request_for: MakeRequest) -> None:
    """Their keepers do the work of starters themselves: nothing of it stays open in them."""
    for number in range(3):
        this = Run(spawner, brief=True)
        spawner.fork_ahead(brief=True)
        script = f"echo {number}; read word; exit {number}"
        request = request_for("sh", "-c", script, open_stdin=True, stdin_once=True)
        (client,) = await this.start(request, AttachRequest(stdin=True, raw=True))
        assert this.keeper is not None
        assert await read_until(client, b"\n") == b"%d\n" % number
        state = this.keeper.state
        links = [os.readlink(path) for path in Path(f"/proc/{state.keeper_pid}/fd").iterdir()]
        assert sum(link.startswith("pipe:") for link in links) == 3
        assert sum(link == request.run_dir for link in links) == 1
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b""
        assert (await this.event(Exited)).code == number
        await this.keeper.wait_closed()


@pytest.mark.parametrize("word", ["nosuch", "/etc"])
async def test_brief_containers_that_cannot_start(
    capfd: pytest.CaptureFixture[str], request_for: MakeRequest, word: str
) -> None:
    spawner = await Spawner.start()
    try:
        request = request_for(word)
        with pytest.raises(StartError) as failure:
            await Run(spawner, brief=True).start(request)
    finally:
        await spawner.close()
    assert failure.value.exit_code == (127 if word == "nosuch" else 126)
    assert not list(Path("/sys/fs/cgroup").glob(f"*/sampan-test/{request.id}"))
    # What the keeper says, it says where its daemon's log is.
    assert capfd.readouterr().err == ""


async def test_dev_as_a_link_is_followed_inside_the_root(
    run: Run, request_for: MakeRequest
) -> None:
    request = request_for("sh", "-c", "ls /devices/null && echo x > /dev/null", network=True)
    upper = request.rootfs[0].options[1].removeprefix("upperdir=")
    os.symlink("/devices", f"{upper}/dev")
    (client,) = await run.start(request, AttachRequest(raw=True))
    assert await read_all(client) == b"/devices/null\n"
    assert (await run.event(Exited)).code == 0
