"""The ``fluentd`` driver: the forward protocol, one message for each line.

Settings: ``network`` is ``tcp``, ``tls`` or ``unix``; ``address`` is ``[host, port]`` or a path;
``record`` what every record has besides the line; ``retry_wait`` and ``reconnect_interval`` in
seconds (0: none), ``max_retries``, ``buffer_limit`` in messages, ``asynchronous``, ``acknowledge``,
``sub_second``, ``write_timeout`` and ``read_timeout`` in seconds (0: none).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from sampan.runtime.logs.drivers import Driver, wire
from sampan.runtime.logs.lines import Message
from sampan.runtime.types import LogConfig

_GROWTH, _LONGEST_WAIT = 1.5, 60.0
_READ = 65536
_BATCH = 1000
_pack = msgspec.msgpack.encode


def make(config: LogConfig) -> Driver:
    """Raises OSError if the receiver cannot be reached now, unless that is not needed yet."""
    if config.remote["asynchronous"]:
        return _Asynchronous(config.remote)
    return _Synchronous(config.remote)


class _Connection:
    """Delivers messages, trying again for as long as the settings say."""

    def __init__(self, settings: dict[str, Any], pause: Callable[[float], bool]) -> None:
        """``pause`` waits for seconds and tells whether to give up."""
        self._settings = settings
        self._pause = pause
        self._socket: socket.socket | None = None
        self._since = 0.0

    def connect(self) -> None:
        """Raises OSError."""
        settings = self._settings
        address = settings["address"]
        if settings["network"] == "unix":
            made = wire.dial("unix", address, lambda: wire.unix(address))
        else:
            host, port = address
            tls: dict[str, Any] | None = {} if settings["network"] == "tls" else None
            made = wire.dial("tcp", f"{host}:{port}", lambda: wire.tcp(host, port, tls))
        made.settimeout(settings["write_timeout"] or None)
        self._socket, self._since = made, time.monotonic()

    def deliver(self, messages: list[Message]) -> bool:
        """Whether the receiver has them; False when the retries are used up."""
        chunks = [os.urandom(16).hex() if self._settings["acknowledge"] else "" for _ in messages]
        pairs = zip(messages, chunks, strict=True)
        data = b"".join(self._packed(message, chunk) for message, chunk in pairs)
        retries, wait = 0, self._settings["retry_wait"]
        while True:
            try:
                self._send(data, {chunk for chunk in chunks if chunk})
                return True
            except OSError:
                self.close()
                retries += 1
                if retries > self._settings["max_retries"]:
                    return False
            if self._pause(min(wait, _LONGEST_WAIT)):
                return False
            wait *= _GROWTH

    def _send(self, data: bytes, chunks: set[str]) -> None:
        interval = self._settings["reconnect_interval"]
        if self._socket and interval and time.monotonic() - self._since > interval:
            self.close()
        if self._socket and not chunks and wire.has_ended(self._socket):
            self.close()
        if self._socket is None:
            self.connect()
        assert self._socket is not None
        self._socket.settimeout(self._settings["write_timeout"] or None)
        self._socket.sendall(data)
        if chunks:
            self._acknowledged(chunks)

    def _acknowledged(self, chunks: set[str]) -> None:
        assert self._socket is not None
        self._socket.settimeout(self._settings["read_timeout"] or None)
        answer = b""
        while True:
            data = self._socket.recv(_READ)
            if not data:
                raise ConnectionResetError("the receiver has closed the connection")
            answer += data
            # Answers of one size: {"ack": 32 characters}.
            if len(answer) >= len(chunks) * len(_pack({"ack": "0" * 32})):
                break
        for chunk in chunks:
            if chunk.encode() not in answer:
                raise ConnectionAbortedError("the receiver has acknowledged something else")

    def _packed(self, message: Message, chunk: str) -> bytes:
        record = {
            **self._settings["record"],
            "source": message.source,
            "log": message.line.decode(errors="replace"),
        }
        if message.part:
            record["partial_message"] = "true"
            record["partial_id"] = message.part.id
            record["partial_ordinal"] = str(message.part.ordinal)
            record["partial_last"] = "true" if message.part.last else "false"
        entry = [self._settings["tag"], self._time(message.time), record]
        return _pack([*entry, {"chunk": chunk}] if chunk else entry)

    def _time(self, at: int) -> int | msgspec.msgpack.Ext:
        seconds, fraction = divmod(at, 10**9)
        if not self._settings["sub_second"]:
            return seconds
        return msgspec.msgpack.Ext(0, seconds.to_bytes(4, "big") + fraction.to_bytes(4, "big"))

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


class _Synchronous:
    """The container's output waits until the receiver has it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._connection = _Connection(settings, _sleep)
        self._connection.connect()

    def send(self, messages: list[Message]) -> None:
        self._connection.deliver(messages)

    def close(self) -> None:
        self._connection.close()


class _Asynchronous:
    """Messages wait in memory for the receiver; the newest are dropped when there are too many."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._limit = int(settings["buffer_limit"])
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._connection = _Connection(settings, self._ending.wait)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def send(self, messages: list[Message]) -> None:
        with self._changed:
            room = self._limit - len(self._waiting)
            self._waiting.extend(messages[: max(room, 0)])
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._ending.is_set():
                        return
                    self._changed.wait()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
            self._connection.deliver(batch)

    def close(self) -> None:
        """What cannot be delivered at once is given up."""
        with self._changed:
            self._ending.set()
            self._changed.notify()
        self._thread.join()
        self._connection.close()
