"""A small D-Bus client: one connection, one call at a time, signals in between.

Written by hand because a container's start may talk here: a general library costs more to import
than the conversation takes.  Follows the D-Bus specification 0.43, "Message Protocol" and
"Authentication Protocol" (EXTERNAL).  The peer may be a bus, which wants to be greeted by ``Hello``
first, or a service itself.

Values are packed by a signature: ``y`` byte, ``b`` boolean, ``u`` and ``t`` numbers of 32 and 64
bits, ``s`` and ``o`` text, ``g`` signature, ``v`` variant (a pair of signature and value), ``a``
arrays (lists, or bytes for ``ay``) and ``(...)`` structures (tuples).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Kinds of messages, and numbers of the header's fields.
_CALL, _ERROR, _SIGNAL = 1, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL = 1, 2, 3, 4, 5
_DESTINATION, _SIGNATURE = 6, 8
_FIXED = {"y": "B", "b": "I", "u": "I", "i": "i", "q": "H", "n": "h", "t": "Q", "x": "q", "d": "d"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "t": 8, "x": 8, "d": 8, "(": 8, "{": 8}
_LARGEST = 1 << 20
_NO_AUTO_START = 2


class CallError(OSError):
    """What the other side answered instead of a result; ``name`` is the error's D-Bus name,
    ``text`` its words."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(5, text or name)
        self.name = name
        self.text = text


def types(signature: str) -> Iterator[str]:
    """The complete types of a signature, one after another."""
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        yield signature[at:end]
        at = end


def _end_of_type(signature: str, at: int) -> int:
    while signature[at] == "a":
        at += 1
    if signature[at] not in "({":
        return at + 1
    depth = 0
    while True:
        depth += (signature[at] in "({") - (signature[at] in ")}")
        at += 1
        if not depth:
            return at


def _pad(out: bytearray, kind: str) -> None:
    out.extend(bytes(-len(out) % _ALIGNMENT.get(kind[0], 4)))


def pack(out: bytearray, signature: str, *values: Any) -> None:
    """Add the values, little-endian; ``out`` starts where alignment is counted from."""
    for kind, value in zip(types(signature), values, strict=True):
        _pad(out, kind)
        if kind in _FIXED:
            out += struct.pack("<" + _FIXED[kind], value)
        elif kind in "so":
            text = value.encode()
            out += struct.pack("<I", len(text)) + text + b"\0"
        elif kind == "g":
            out += bytes((len(value),)) + value.encode() + b"\0"
        elif kind == "v":
            pack(out, "g", value[0])
            pack(out, *value)
        elif kind[0] == "a":
            _pack_array(out, kind[1:], value)
        else:
            pack(out, kind[1:-1], *value)


def _pack_array(out: bytearray, kind: str, values: Any) -> None:
    at = len(out)
    out += bytes(4)
    _pad(out, kind)
    start = len(out)
    for value in values:
        pack(out, kind, value)
    struct.pack_into("<I", out, at, len(out) - start)


class _Reader:
    """Takes values out of a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def align(self, kind: str) -> None:
        self.at += -self.at % _ALIGNMENT.get(kind[0], 4)

    def read(self, signature: str) -> list[Any]:
        return [self._one(kind) for kind in types(signature)]

    def _one(self, kind: str) -> Any:
        self.align(kind)
        if kind in _FIXED:
            code = "<" + _FIXED[kind]
            (value,) = struct.unpack_from(code, self._data, self.at)
            self.at += struct.calcsize(code)
            return value
        if kind in "sog":
            code = "<B" if kind == "g" else "<I"
            (length,) = struct.unpack_from(code, self._data, self.at)
            start = self.at + struct.calcsize(code)
            self.at = start + length + 1
            return self._data[start : start + length].decode(errors="replace")
        if kind == "v":
            return self._one(self._one("g"))
        if kind[0] == "a":
            end = self._one("u")
            self.align(kind[1:])
            end += self.at
            items = []
            while self.at < end:
                items.append(self._one(kind[1:]))
            return items
        return tuple(self.read(kind[1:-1]))


class Message:
    """A received message: its kind, the header's fields by number, the values of its body."""

    def __init__(self, data: bytes) -> None:
        """``data`` is one whole message.  Raises struct.error, IndexError and
        ValueError if it is none."""
        self.kind = data[1]
        reader = _Reader(data)
        reader.at = 12
        (fields,) = reader.read("a(yv)")
        self.fields: dict[int, Any] = dict(fields)
        reader.align("(")
        body = _Reader(data[reader.at :])
        self.values = body.read(self.fields.get(_SIGNATURE, ""))

    @property
    def member(self) -> str:
        return str(self.fields.get(_MEMBER, ""))

    @property
    def is_signal(self) -> bool:
        return self.kind == _SIGNAL


class Method(NamedTuple):
    """A method of an object of a service, and the signature of what it takes."""

    service: str
    path: str
    interface: str
    member: str
    signature: str = ""


def call_message(serial: int, method: Method, values: tuple[Any, ...]) -> bytes:
    """A call that does not start the service."""
    service, path, interface, member, signature = method
    body = bytearray()
    pack(body, signature, *values)
    fields = [
        (_PATH, ("o", path)),
        (_INTERFACE, ("s", interface)),
        (_MEMBER, ("s", member)),
        (_DESTINATION, ("s", service)),
    ]
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    out = bytearray((ord("l"), _CALL, _NO_AUTO_START, 1))
    pack(out, "uua(yv)", len(body), serial, fields)
    _pad(out, "(")
    return bytes(out + body)


class Connection:
    """A connection to the peer at one socket."""

    def __init__(self, path: str, seconds: float) -> None:
        """``seconds`` is how long each answer may take.  Raises OSError."""
        self._serial = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(seconds)
            self._socket.connect(path)
            identity = str(os.geteuid()).encode().hex().encode()
            self._socket.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\nBEGIN\r\n")
            self._authenticated(path)
        except BaseException:
            self._socket.close()
            raise

    def _authenticated(self, path: str) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._exactly(1)
        if not line.startswith(b"OK "):
            raise PermissionError(13, f"{path} refuses us: {line.decode().strip()}")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise ConnectionResetError(104, "the other side has closed the connection")
            data += part
        return data

    def receive(self) -> Message:
        """The next message.  Raises OSError, TimeoutError among them."""
        head = self._exactly(16)
        length, _, fields = struct.unpack_from("<III", head, 4)
        rest = fields + -fields % 8 + length
        if head[:1] != b"l" or rest > _LARGEST:
            raise OSError(71, "the other side sends what is not understood")
        try:
            return Message(head + self._exactly(rest))
        except (struct.error, IndexError, ValueError):
            raise OSError(71, "the other side sends what is not understood") from None

    def call(
        self, method: Method, *values: Any, on_signal: Callable[[Message], None] | None = None
    ) -> list[Any]:
        """Call a method and return the values of its answer; signals that arrive before it are
        given to ``on_signal``.  Raises CallError with the other side's error, and OSError."""
        self._serial += 1
        self._socket.sendall(call_message(self._serial, method, values))
        while True:
            message = self.receive()
            if message.is_signal:
                if on_signal:
                    on_signal(message)
            elif message.fields.get(_REPLY_SERIAL) == self._serial:
                if message.kind == _ERROR:
                    text = str(message.values[0]) if message.values else ""
                    raise CallError(str(message.fields.get(_ERROR_NAME, "")), text)
                return message.values
