"""Drivers that send lines away, against receivers of our own."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.linux import memfd
from sampan.runtime.errors import StartError
from sampan.runtime.logs import drivers, shipper
from sampan.runtime.logs.lines import LONGEST_LINE, Message, Part, Splitter
from sampan.runtime.logs.sink import Sink, _Gate
from sampan.runtime.logs.writer import NullWriter
from sampan.runtime.loop import Loop
from sampan.runtime.types import LogConfig

AT = 1_700_000_000_123_456_789


class Receiver:
    """A server on loopback that keeps what it gets."""

    def __init__(self, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.data = b""
        self.replies: Callable[[bytes], bytes] = lambda data: b""
        self._wrap = wrap
        self._changed = threading.Condition()
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection = self._wrap(connection)
            self.connections.append(connection)
            while data := self._received(connection):
                if answer := self.replies(data):
                    connection.sendall(answer)
                with self._changed:
                    self.data += data
                    self._changed.notify_all()

    @staticmethod
    def _received(connection: socket.socket) -> bytes:
        try:
            return connection.recv(65536)
        except OSError:
            return b""  # closed by the test

    def wait_for(self, done: Callable[[bytes], bool]) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: done(self.data), 20), self.data
            return self.data

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def syslog(network: str, address: Any, form: str, tls: Any = None) -> LogConfig:
    settings = {"network": network, "address": address, "facility": 3, "format": form}
    return LogConfig("syslog", remote={**settings, "tls": tls or {}, "tag": "the-tag"})


MESSAGES = [Message(AT, 1, b"to stdout"), Message(AT, 2, b"to stderr \xff")]
STAMP = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d%s(Z|[+-]\d\d:\d\d)"
HOST = re.escape(socket.gethostname())


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("", rf"<30>{STAMP} the-tag\[\d+\]: to stdout\n"),
        ("rfc3164", rf"<30>{STAMP} {HOST} the-tag\[\d+\]: to stdout\n"),
        ("rfc5424", rf"<30>1 {ISO % ''} {HOST} the-tag \d+ the-tag - to stdout\n"),
        ("rfc5424micro", rf"<30>1 {ISO % '.123456'} {HOST} the-tag \d+ the-tag - to stdout\n"),
    ],
)
def test_syslog_formats_over_udp(form: str, pattern: str) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(10)
    driver = drivers.connect(syslog("udp", ["127.0.0.1", server.getsockname()[1]], form))
    driver.send(MESSAGES)
    assert re.fullmatch(pattern, server.recv(65536).decode())
    assert server.recv(65536).startswith(b"<27>")
    driver.close()
    server.close()


def test_syslog_over_tcp_reconnects(receiver: Receiver) -> None:
    driver = drivers.connect(syslog("tcp", ["127.0.0.1", receiver.port], "rfc3164"))
    driver.send(MESSAGES)
    assert receiver.wait_for(lambda data: data.count(b"\n") == 2)
    receiver.connections[0].shutdown(socket.SHUT_RDWR)
    driver.send([Message(AT, 1, b"after the break")])
    receiver.wait_for(lambda data: b"after the break" in data)
    driver.close()


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
def test_syslog_to_a_local_socket(tmp_path: Path, kind: str) -> None:
    server = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM if kind == "unix" else socket.SOCK_DGRAM
    )
    server.bind(str(tmp_path / "log"))
    if kind == "unix":
        server.listen()
    driver = drivers.connect(syslog(kind, str(tmp_path / "log"), ""))
    connection = server.accept()[0] if kind == "unix" else server
    driver.send(MESSAGES[:1])
    assert connection.recv(65536).endswith(b": to stdout\n")
    driver.close()
    for sock in {server, connection}:
        sock.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_syslog_over_tls_counts_bytes(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = Receiver(lambda sock: context.wrap_socket(sock, server_side=True))
    tls = {"ca": str(certificate / "cert.pem"), "cert": "", "key": "", "verify": True}
    driver = drivers.connect(syslog("tcp+tls", ["127.0.0.1", server.port], "rfc5424", tls))
    driver.send(MESSAGES[:1])
    driver.send(MESSAGES[:1])
    data = server.wait_for(lambda data: data.count(b"\n") == 2)
    length, _, rest = data.partition(b" ")
    assert rest[: int(length)].endswith(b"to stdout\n")
    assert rest[int(length) :].startswith(length)
    driver.close()
    server.close()


def test_syslog_over_tls_verifies(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    for verify in (True, False):
        listener = socket.create_server(("127.0.0.1", 0))
        config = syslog("tcp+tls", list(listener.getsockname()), "rfc5424", {"verify": verify})

        def serve(listener: socket.socket = listener) -> None:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True).recv(1)
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        if verify:
            with pytest.raises(OSError, match="certificate verify failed"):
                drivers.connect(config)
        else:
            drivers.connect(config).close()
        thread.join()
        listener.close()


def entries_of(datagram: bytes) -> dict[str, bytes]:
    """A journal entry's fields, by the native protocol."""
    fields, at = {}, 0
    while at < len(datagram):
        end = datagram.index(b"\n", at)
        name, equals, value = datagram[at:end].partition(b"=")
        at = end + 1
        if not equals:
            size = int.from_bytes(datagram[at : at + 8], "little")
            value = datagram[at + 8 : at + 8 + size]
            at += 8 + size + 1
        fields[name.decode()] = value
    return fields


def journal(path: Path) -> LogConfig:
    fields = {"CONTAINER_ID": "abc", "CONTAINER_TAG": "the-tag", "LABEL": "two\nlines"}
    return LogConfig("journald", remote={"socket": str(path), "fields": fields})


def test_journal_entries(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "journal"))
    driver = drivers.connect(journal(tmp_path / "journal"))
    driver.send([*MESSAGES, Message(AT, 1, b"begin", Part("p", 1, False))])
    first, second, third = (entries_of(server.recv(1 << 20)) for _ in range(3))
    assert first["MESSAGE"] == b"to stdout"
    assert first["PRIORITY"] == b"6"
    assert first["CONTAINER_ID"] == b"abc"
    assert first["LABEL"] == b"two\nlines"
    assert first["SYSLOG_TIMESTAMP"] == b"2023-11-14T22:13:20.123456789Z"
    assert second["PRIORITY"] == b"3"
    assert second["MESSAGE"] == b"to stderr \xff"
    assert third["CONTAINER_PARTIAL_MESSAGE"] == b"true"
    assert third["CONTAINER_PARTIAL_ORDINAL"] == b"1"
    driver.close()
    server.close()


def test_large_journal_entries_go_by_memory(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "journal"))
    driver = drivers.connect(journal(tmp_path / "journal"))
    driver.send([Message(AT, 1, b"x" * (4 << 20))])
    data, fds, _, _ = socket.recv_fds(server, 1 << 20, 1)
    assert not data
    assert entries_of(memfd.read_all(fds[0]))["MESSAGE"] == b"x" * (4 << 20)
    os.close(fds[0])
    driver.close()
    server.close()


def fluentd(port: int, **changes: Any) -> LogConfig:
    settings = {
        "network": "tcp",
        "address": ["127.0.0.1", port],
        "asynchronous": False,
        "reconnect_interval": 0.0,
        "buffer_limit": 1000,
        "max_retries": 100,
        "retry_wait": 0.05,
        "acknowledge": False,
        "sub_second": False,
        "write_timeout": 0.0,
        "read_timeout": 0.0,
        "tag": "the-tag",
        "record": {"container_id": "abc"},
    }
    return LogConfig("fluentd", remote={**settings, **changes})


def unpacked(data: bytes) -> list[Any]:
    """The messages in a stream of them."""
    found, at = [], 0
    while at < len(data):
        for end in range(at + 1, len(data) + 1):
            try:
                found.append(msgspec.msgpack.decode(data[at:end]))
            except msgspec.DecodeError:
                continue
            at = end
            break
        else:
            break
    return found


def test_fluentd_messages(receiver: Receiver) -> None:
    driver = drivers.connect(fluentd(receiver.port))
    driver.send([MESSAGES[0], Message(AT, 2, b"end", Part("p", 2, True))])
    data = receiver.wait_for(lambda data: len(unpacked(data)) == 2)
    first, second = unpacked(data)
    assert first == [
        "the-tag",
        AT // 10**9,
        {"container_id": "abc", "source": "stdout", "log": "to stdout"},
    ]
    assert second[2]["partial_message"] == "true"
    assert second[2]["partial_last"] == "true"
    assert second[2]["partial_ordinal"] == "2"
    driver.close()


def test_fluentd_sub_second_and_acknowledged(receiver: Receiver) -> None:
    def answer(data: bytes) -> bytes:
        chunks = [message[3]["chunk"] for message in unpacked(data)]
        return b"".join(msgspec.msgpack.encode({"ack": chunk}) for chunk in chunks)

    receiver.replies = answer
    driver = drivers.connect(fluentd(receiver.port, sub_second=True, acknowledge=True))
    driver.send(MESSAGES)
    (_, time, _, _), _ = unpacked(receiver.wait_for(lambda data: len(unpacked(data)) == 2))
    seconds, rest = int.from_bytes(time.data[:4], "big"), int.from_bytes(time.data[4:], "big")
    assert (time.code, seconds * 10**9 + rest) == (0, AT)
    driver.close()


def test_fluentd_asynchronous_waits_for_the_receiver() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    driver = drivers.connect(fluentd(port, asynchronous=True, buffer_limit=3))
    driver.send([Message(AT, 1, b"%d" % number) for number in range(5)])
    server = socket.create_server(("127.0.0.1", port))
    connection, _ = server.accept()
    connection.settimeout(10)
    data = b""
    while len(unpacked(data)) < 3:
        data += connection.recv(65536)
    assert [message[2]["log"] for message in unpacked(data)] == ["0", "1", "2"]
    driver.close()
    connection.close()
    server.close()


def test_a_receiver_that_is_not_there_fails_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for config, text in (
        (fluentd(port), f"dial tcp 127.0.0.1:{port}: connect: connection refused"),
        (syslog("tcp", ["127.0.0.1", port], ""), "connect: connection refused"),
        (syslog("unix", str(tmp_path / "none"), ""), "connect: no such file or directory"),
        (journal(tmp_path / "none"), "journald is not enabled on this host"),
    ):
        with pytest.raises(StartError, match="failed to initialize logging driver: .*" + text):
            shipper.start(config)


class Shipping:
    """A sink with its shipper, without a keeper."""

    def __init__(self, config: LogConfig) -> None:
        self.loop = Loop()
        fd, self.pid = shipper.start(config)
        self.sink = Sink(self.loop, fd, self.pid, NullWriter(), config.buffer)

    def close(self) -> None:
        self.sink.close(self.loop.stop)
        if self.sink._closing:
            self.loop.run()


def test_everything_arrives(receiver: Receiver) -> None:
    shipping = Shipping(fluentd(receiver.port))
    lines = [b"line %d\n" % number for number in range(20000)]
    whole = b"".join(lines)
    for at in range(0, len(whole), 50000):
        shipping.sink.write(1, whole[at : at + 50000], AT)
    shipping.sink.write(2, b"without an end", AT)
    shipping.close()
    data = receiver.wait_for(lambda data: b"without an end" in data)
    assert data.count(b"line ") == 20000
    with pytest.raises(ChildProcessError):
        os.waitpid(shipping.pid, 0)


def test_a_shipper_that_is_no_child_any_more() -> None:
    """While its starter lives, it is that one's child."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    ours, theirs = socket.socketpair()
    loop = Loop()
    sink = Sink(loop, ours.detach(), pid, NullWriter(), 0)
    theirs.close()
    sink.close(loop.stop)
    loop.run()


def test_a_slow_receiver_holds_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        shipping = Shipping(fluentd(server.getsockname()[1]))
        connection, _ = server.accept()
        low: list[int] = []
        shipping.sink.on_low = lambda: low.append(shipping.sink.backlog)
        while shipping.sink.backlog < 1 << 20:
            shipping.sink.write(1, b"x" * 1000 + b"\n", AT)
        threading.Thread(target=lambda: _drain(connection), daemon=True).start()
        while shipping.sink.backlog:
            shipping.loop.step()
        assert low
        shipping.close()


def _drain(connection: socket.socket) -> None:
    while connection.recv(1 << 20):
        pass
    connection.close()


def test_without_blocking_whole_lines_are_dropped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = fluentd(server.getsockname()[1])
        config.buffer = 100_000
        shipping = Shipping(config)
        connection, _ = server.accept()
        for number in range(30000):
            shipping.sink.write(1, b"line %06d " % number + b"x" * 300 + b"\n", AT)
            assert not shipping.sink.backlog
        assert shipping.sink._pending < 110_000
        received: list[bytes] = []

        def take() -> None:
            while data := connection.recv(1 << 20):
                received.append(data)

        thread = threading.Thread(target=take)
        thread.start()
        shipping.close()
        thread.join()
        connection.close()
    logs = re.findall(rb"line (\d{6}) x{300}(?!x)", b"".join(received))
    assert 100 < len(logs) < 30000
    assert logs == sorted(set(logs))
    assert logs[0] == b"000000"
    assert b"".join(received).count(b"line ") == len(logs)


def test_files_without_blocking(tmp_path: Path) -> None:
    shipping = Shipping(LogConfig("json-file", str(tmp_path / "log"), buffer=1 << 20))
    shipping.sink.write(1, b"one\ntwo\n", AT)
    shipping.close()
    assert (tmp_path / "log").read_text().count("\n") == 2


def test_a_shipper_that_dies_does_not_stop_the_output(receiver: Receiver) -> None:
    shipping = Shipping(fluentd(receiver.port))
    os.kill(shipping.pid, 9)
    os.waitid(os.P_PID, shipping.pid, os.WEXITED | os.WNOWAIT)
    for _ in range(100):
        shipping.sink.write(1, b"x" * 10000, AT)
    assert shipping.sink.backlog == 0
    shipping.close()


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 60)), max_size=20))
def test_no_line_is_ever_cut(pieces: list[tuple[bytes, int]]) -> None:
    alphabet = bytes(10 if byte % 5 == 0 else 97 + byte % 26 for byte in range(256))
    gate, passed, given_all = _Gate(), b"", b""
    for raw, room in pieces:
        data = raw.translate(alphabet)
        given_all += data
        passed += gate.admit(data, room, nothing_waits=False)
    wanted = given_all.split(b"\n")
    for line in passed.split(b"\n"):
        # Whole, or one of which only the beginning had come when there was no room any more.
        assert any(whole.startswith(line) for whole in wanted)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_lines_of_any_chunks(chunks: list[bytes]) -> None:
    splitter = Splitter()
    found = [message for chunk in chunks for message in splitter.feed(1, chunk, AT)]
    found += splitter.finish()
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [message.line for message in found] == expected


def test_long_lines_come_in_parts() -> None:
    splitter = Splitter()
    long = os.urandom(LONGEST_LINE * 2 + 5).replace(b"\n", b"-")
    found = splitter.feed(1, long + b"\nshort\n", AT)
    assert b"".join(message.line for message in found[:3]) == long
    parts = [message.part for message in found]
    assert [part and (part.ordinal, part.last) for part in parts] == [
        (1, False),
        (2, False),
        (3, True),
        None,
    ]
