"""Asking systemd for groups: names, properties, messages, and a manager that gives trouble."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.linux.dbus import CallError, Connection, Message, Method, call_message, pack, types
from sampan.runtime.cgroups import systemd
from sampan.runtime.cgroups.naming import GroupNames
from sampan.runtime.cgroups.types import Group


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("-.slice", ""),
        ("system.slice", "/system.slice"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ("user-1000.slice", "/user.slice/user-1000.slice"),
    ],
)
def test_where_slices_lie(name: str, path: str) -> None:
    assert systemd.slice_path(name) == path


@pytest.mark.parametrize(
    "name", ["", ".slice", "a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice"]
)
def test_what_is_no_slice(name: str) -> None:
    with pytest.raises(ValueError, match="invalid slice name"):
        systemd.slice_path(name)


def test_names_of_scopes() -> None:
    assert systemd.split("a-b.slice:sampan:x") == (
        "a-b.slice",
        "sampan-x.scope",
        "/a.slice/a-b.slice/sampan-x.scope",
    )
    assert systemd.split(":p:x")[0] == "system.slice"
    assert systemd.split("system.slice::x")[1] == "x.scope"
    for wrong in ("system.slice:p:", "system.slice:p:a/b", "other:p:x"):
        with pytest.raises(ValueError, match=r"slice|SLICE"):
            systemd.split(wrong)


def test_parents() -> None:
    plain, slices = GroupNames(), GroupNames("systemd")
    assert plain.path("x") == "/sampan/x" and plain.path("x", "/p/") == "/p/x"
    assert slices.path("x") == "system.slice:sampan:x"
    assert GroupNames("systemd", "own.slice").path("x") == "own.slice:sampan:x"
    plain.check("/any/where")
    slices.check("")
    with pytest.raises(ValueError, match="leaves"):
        plain.check("/a/../..")
    for wrong in ("/sampan", ".slice", "a.scope", "a--b.slice"):
        with pytest.raises(ValueError, match="slice"):
            slices.check(wrong)


def test_limits_as_properties() -> None:
    infinity = 2**64 - 1
    found = dict(
        systemd.properties(
            {
                "memory": {"limit": 100, "swap": 150, "reservation": 50},
                "cpu": {"shares": 1024, "quota": 20000, "period": 50000, "cpus": "0-1,9"},
                "pids": {"limit": 7},
            }
        )
    )
    assert found == {
        "MemoryMax": ("t", 100),
        "MemorySwapMax": ("t", 50),
        "MemoryLow": ("t", 50),
        "CPUWeight": ("t", 39),
        "CPUQuotaPerSecUSec": ("t", 400_000),
        "CPUQuotaPeriodUSec": ("t", 50_000),
        "AllowedCPUs": ("ay", b"\x03\x02"),
        "TasksMax": ("t", 7),
    }
    lifted = {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}
    assert {value for name, (_, value) in systemd.properties(lifted) if "Period" not in name} == {
        infinity
    }
    assert systemd.properties({}) == []


# --- messages -----------------------------------------------------------------------------------

_METHOD = Method("org.example", "/org/example", "org.example.Face", "Do")


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**32 - 1)),
    st.lists(st.tuples(st.text("ab"), st.booleans())),
    st.binary(),
)
def test_values_come_back(
    text: str, number: int, numbers: list[int], pairs: list[tuple[str, bool]], data: bytes
) -> None:
    variants = [(name, ("b", flag)) for name, flag in pairs]
    method = _METHOD._replace(signature="stauya(sv)ay(ss)")
    values = (text, number, numbers, 7, variants, data, ("x", text))
    message = Message(call_message(1, method, values))
    expected = [text, number, numbers, 7, pairs, list(data), ("x", text)]
    assert message.values == expected and message.member == "Do"


def test_signatures_are_taken_apart() -> None:
    assert list(types("sa(sv)a(sa(sv))aau")) == ["s", "a(sv)", "a(sa(sv))", "aau"]


# --- a manager ----------------------------------------------------------------------------------


class Manager:
    """Speaks as systemd does; ``script`` are the answers: an error's name, or a job's result."""

    def __init__(self, path: Path, script: list[str]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._script = script
        self.calls: list[tuple[str, list[Any]]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as stream:
            assert stream.read(1) == b"\0" and stream.readline().startswith(b"AUTH EXTERNAL ")
            connection.sendall(b"OK 00112233445566778899aabbccddeeff\r\n")
            assert stream.readline() == b"BEGIN\r\n"
            while head := stream.read(16):
                body, serial, fields = struct.unpack_from("<III", head, 4)
                message = Message(head + stream.read(fields + -fields % 8 + body))
                self.calls.append((message.member, message.values))
                self._answer(connection, serial, self._script.pop(0))

    def _answer(self, connection: socket.socket, serial: int, said: str) -> None:
        if "." in said:
            self._send(connection, 3, [(5, ("u", serial)), (4, ("s", said))], "s", "its words")
        elif not said:
            self._send(connection, 2, [(5, ("u", serial))], "")
        else:
            # The end of a job may be told before the answer to the call.
            job = f"/job/{serial}"
            signal = [(1, ("o", "/")), (2, ("s", "x.y")), (3, ("s", "JobRemoved"))]
            self._send(connection, 4, signal, "uoss", serial, job, "x.scope", said)
            self._send(connection, 2, [(5, ("u", serial))], "o", job)

    def _send(
        self, connection: socket.socket, kind: int, fields: list[Any], signature: str, *values: Any
    ) -> None:
        body, out = bytearray(), bytearray((ord("l"), kind, 0, 1))
        pack(body, signature, *values)
        if signature:
            fields = [*fields, (8, ("g", signature))]
        pack(out, "uua(yv)", len(body), 1, fields)
        out += bytes(-len(out) % 8)
        connection.sendall(bytes(out + body))


class Files:
    """The group whose files are used: notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def noted(*_: Any) -> list[str]:
            self.asked.append(name)
            return []

        return noted


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(systemd, "SOCKET", str(tmp_path / "private"))
    yield tmp_path / "private"


def _group(files: Files) -> systemd.GroupSystemd:
    def at_path(path: str) -> Group:
        assert path == "/system.slice/sampan-x.scope"
        found: Any = files
        return found  # type: ignore[no-any-return]

    return systemd.GroupSystemd("system.slice:sampan:x", at_path)


def test_a_name_in_use_is_freed_first(place: Path) -> None:
    exists, gone = (f"org.freedesktop.systemd1.{name}" for name in ("UnitExists", "NoSuchUnit"))
    manager, files = Manager(place, [exists, "done", gone, "done"]), Files()
    group = _group(files)
    group.create({"pids": {"limit": 5}})
    assert files.asked == []
    group.add(42)
    manager.close()
    assert files.asked == ["create", "add"]
    assert [name for name, _ in manager.calls] == [
        *("StartTransientUnit", "StopUnit", "ResetFailedUnit", "StartTransientUnit"),
    ]
    unit, mode, settings, _ = manager.calls[-1][1]
    assert (unit, mode) == ("sampan-x.scope", "fail")
    assert dict(settings)["PIDs"] == [42] and dict(settings)["TasksMax"] == 5
    # A further process joins.
    again = _group(files)
    again.add(43)
    assert files.asked[2:] == ["add"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("failed", "systemd could not make sampan-x.scope: failed"),
        ("org.freedesktop.DBus.Error.AccessDenied", "sampan-x.scope: its words"),
    ],
)
def test_what_systemd_refuses_is_an_error(place: Path, said: str, words: str) -> None:
    manager, files = Manager(place, [said]), Files()
    group = _group(files)
    group.create({})
    with pytest.raises(OSError, match=words):
        group.add(42)
    manager.close()
    assert files.asked == []


def test_without_systemd_it_says_so(place: Path) -> None:
    group = _group(Files())
    group.create({})
    with pytest.raises(OSError, match=r"systemd cannot be asked for sampan-x.scope"):
        group.add(42)
    group.delete()


def test_nonsense_is_refused(place: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"OK x\r\n")
            connection.recv(4096)
            connection.sendall(b"l" + bytes(3) + struct.pack("<III", 4, 1, 60) + bytes(68))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with Connection(str(place), 5) as connection:
        with pytest.raises(OSError, match=r"closed|understood") as caught:
            connection.call(_METHOD)
        assert not isinstance(caught.value, CallError)
    thread.join(10)
    listener.close()
