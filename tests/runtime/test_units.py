"""Pure parts: parcels, users, detach keys, the guard, the default specification."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.runtime import parcel
from sampan.runtime.attached import DetachScanner
from sampan.runtime.errors import StartError
from sampan.runtime.spec import DEFAULT_CAPABILITIES, capabilities, default_spec, make_privileged
from sampan.runtime.sync import ChildSide, KeeperSide, command_error
from sampan.runtime.users import Identity, UnknownUser, resolve

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:\n1234:x:77:78::/n:\nbad\n"
GROUP = b"root:x:0:\nstaff:x:50:bob,amy\nwheel:x:10:bob\nbad:x:\n"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("size", [0, 1, parcel.INLINE_LIMIT, parcel.INLINE_LIMIT + 1, 3_000_000])
@pytest.mark.parametrize("count", [0, 1, 450])
def test_parcels(pair: tuple[socket.socket, socket.socket], size: int, count: int) -> None:
    message = os.urandom(size)
    fds = [os.dup(0) for _ in range(count)]
    parcel.send(pair[0], message, fds)
    parcel.send(pair[0], b"next")
    receiver = parcel.Receiver(pair[1])
    received = receiver.receive()
    assert received is not None
    assert received[0] == message
    assert len(received[1]) == count
    assert not any(os.get_inheritable(fd) for fd in received[1])
    assert receiver.receive() == (b"next", [])
    pair[0].close()
    assert receiver.receive() is None
    for fd in (*fds, *received[1]):
        os.close(fd)


@pytest.mark.parametrize(
    ("user", "additional", "expected"),
    [
        ("", [], Identity(0, 0, (0,), "/root")),
        ("bob", [], Identity(1000, 1001, (1001, 50, 10), "/home/bob")),
        ("1000", [], Identity(1000, 1001, (1001, 50, 10), "/home/bob")),
        ("1234", [], Identity(77, 78, (78,), "/n")),
        ("5555", [], Identity(5555, 0, (0,), "/")),
        ("bob:staff", [], Identity(1000, 50, (50,), "/home/bob")),
        ("bob:9", ["wheel", "7"], Identity(1000, 9, (9, 10, 7), "/home/bob")),
        ("0:0", [], Identity(0, 0, (0,), "/root")),
    ],
)
def test_users(user: str, additional: list[str], expected: Identity) -> None:
    assert resolve(PASSWD, GROUP, user, additional) == expected


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("eve", "unable to find user eve: no matching entries in passwd file"),
        ("bob:gang", "unable to find group gang: no matching entries in group file"),
        ("4294967296", "must be in range"),
        ("-1", "unable to find user -1"),
    ],
)
def test_unknown_users(user: str, text: str) -> None:
    with pytest.raises(UnknownUser, match=text):
        resolve(PASSWD, GROUP, user)


@given(st.binary(max_size=200), st.binary(max_size=200), st.text())
def test_any_user_files(passwd: bytes, group: bytes, user: str) -> None:
    try:
        resolve(passwd, group, user)
    except UnknownUser:
        pass


SMALL = st.lists(st.sampled_from([b"a", b"b"]), max_size=12).map(b"".join)


@given(st.sampled_from([b"a", b"ab", b"aab", b"ba"]), st.lists(SMALL, max_size=6))
def test_detach_keys_across_reads(keys: bytes, reads: list[bytes]) -> None:
    scanner = DetachScanner(keys)
    passed, detached = b"", False
    for data in reads:
        out, detached = scanner.feed(data)
        passed += out
        if detached:
            break
    whole = b"".join(reads)
    if detached:
        assert whole.startswith(passed + keys)
    else:
        assert whole.startswith(passed)
        assert keys.startswith(whole[len(passed) :])


def test_no_keys_never_detach() -> None:
    assert DetachScanner(b"").feed(b"\x10\x11") == (b"\x10\x11", False)


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("x", errno.ENOENT, ('exec: "x": executable file not found in $PATH', 127)),
        ("/x", errno.ENOENT, ('exec: "/x": stat /x: no such file or directory', 127)),
        ("/x", errno.EACCES, ('exec: "/x": permission denied', 126)),
        ('a"b', errno.EACCES, ('exec: "a\\"b": permission denied', 126)),
    ],
)
def test_command_errors(name: str, number: int, expected: tuple[str, int]) -> None:
    assert command_error(name, OSError(number, "")) == expected


def test_capabilities() -> None:
    assert capabilities() == list(DEFAULT_CAPABILITIES)
    assert "CAP_NET_ADMIN" in capabilities(add=["net_admin"])
    assert capabilities(drop=["ALL"]) == []
    assert capabilities(add=["CHOWN"], drop=["all"]) == ["CAP_CHOWN"]
    assert len(capabilities(add=["ALL"], drop=["CAP_SYS_ADMIN"])) == 40
    with pytest.raises(InvalidParameter, match='unknown capability: "CAP_MAGIC"'):
        capabilities(add=["MAGIC"])


def test_specifications_are_independent() -> None:
    first = default_spec(args=["a"])
    make_privileged(first)
    second = default_spec(args=["b"], env=["X=1"], terminal=True, hostname="h")
    assert second["linux"]["maskedPaths"]
    assert second["process"]["env"][1:] == ["HOSTNAME=h", "TERM=xterm", "X=1"]
    assert second["process"]["capabilities"]["bounding"] == list(DEFAULT_CAPABILITIES)


def test_the_guard_stops_a_child() -> None:
    code = """
import os, sys
from sampan.runtime.guard import Forbidden, Guard
guard = Guard()
try:
    import colorsys
except Forbidden:
    guard.inside()
    try:
        os.open("/etc/passwd", os.O_RDONLY)
    except Forbidden:
        os._exit(9)
"""
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


def test_the_last_words_of_a_child_that_died_are_heard() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        side = KeeperSide(ours)
        side.go()
        with theirs:
            ChildSide(theirs).fail("this is why", 126)
        with pytest.raises(StartError, match="this is why"):
            side.wait_for_exec()
