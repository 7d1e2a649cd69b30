"""Calls to services on the system bus: strings in, strings out, one connection a series of calls.

Follows the D-Bus specification, "Message Protocol" and "Authentication Protocol" (EXTERNAL).  Every
method blocks, for at most the time that is given to :class:`Bus`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

_CALL, _RETURN, _ERROR = 1, 2, 3
_NO_AUTO_START = 2
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
)
_FIXED = struct.Struct("<cBBBIII")
_LIMIT = 1 << 20


class BusError(Exception):
    """A service's refusal: its ``name`` (``org.freedesktop.DBus.Error.…``) and its words."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name


class Bus:
    """A connection to the bus at the socket ``path``.  Raises :class:`OSError`."""

    def __init__(self, path: str, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._serial = 0
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            identity = str(os.getuid()).encode().hex().encode()
            self._socket.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\n")
            answer = b""
            while not answer.endswith(b"\r\n"):
                answer += self._receive(1)
            if not answer.startswith(b"OK "):
                raise PermissionError(f"the bus {path} refuses us: {answer.decode().strip()}")
            self._socket.sendall(b"BEGIN\r\n")
            bus = "org.freedesktop.DBus"
            self.call(bus, "/org/freedesktop/DBus", bus, "Hello")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, service: str, path: str, interface: str, member: str, *words: str) -> str:
        """Call a method with strings; its answer if that is a string, otherwise nothing.

        The service is not started for it.  Raises :class:`BusError`, :class:`OSError`.
        """
        self._serial += 1
        self._socket.sendall(_message(self._serial, service, path, interface, member, words))
        while True:
            kind, fields, body = self._read()
            if fields.get(_REPLY_SERIAL) != self._serial:
                continue
            text = _text(body) if str(fields.get(_SIGNATURE, "")).startswith("s") else ""
            if kind == _ERROR:
                raise BusError(str(fields.get(_ERROR_NAME)), text)
            if kind == _RETURN:
                return text

    def _read(self) -> tuple[int, dict[int, str | int], bytes]:
        fixed = self._receive(16)
        order, kind, _, _, body, _, size = _FIXED.unpack(fixed)
        if order != b"l" or body > _LIMIT or size > _LIMIT:
            raise ConnectionError("the bus sends what we do not read")
        fields = _fields(self._receive(size + -size % 8)[:size])
        return kind, fields, self._receive(body)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the bus has closed the connection")
            data += piece
        return data


def _message(
    serial: int, service: str, path: str, interface: str, member: str, words: Sequence[str]
) -> bytes:
    fields = b""
    for code, kind, value in (
        (_PATH, b"o", path),
        (_DESTINATION, b"s", service),
        (_INTERFACE, b"s", interface),
        (_MEMBER, b"s", member),
    ):
        fields = _aligned(fields, 8) + bytes([code, 1]) + kind + b"\0" + _string(value)
    body = b""
    for word in words:
        body = _aligned(body, 4) + _string(word)
    if words:
        signature = b"s" * len(words)
        fields = _aligned(fields, 8) + bytes([_SIGNATURE, 1]) + b"g\0"
        fields += bytes([len(signature)]) + signature + b"\0"
    fixed = _FIXED.pack(b"l", _CALL, _NO_AUTO_START, 1, len(body), serial, len(fields))
    return fixed + _aligned(fields, 8) + body


def _fields(data: bytes) -> dict[int, str | int]:
    """The header's fields, of the types that answers have."""
    found: dict[int, str | int] = {}
    at = 0
    while at + 4 < len(data):
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"g":
            end = at + 1 + data[at]
            found[code] = data[at + 1 : end].decode()
            at = end + 1
        elif kind == b"u":
            at += -at % 4
            (found[code],) = struct.unpack_from("<I", data, at)
            at += 4
        elif kind in (b"s", b"o"):
            at += -at % 4
            found[code] = _text(data[at:])
            at += 5 + len(str(found[code]).encode())
        else:
            raise ConnectionError("the bus sends what we do not read")
        at += -at % 8
    return found


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _text(data: bytes) -> str:
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length].decode()


def _aligned(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)
