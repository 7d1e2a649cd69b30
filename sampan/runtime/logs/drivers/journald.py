"""The ``journald`` driver: systemd's native journal protocol.

Settings: ``socket`` is the journal's, ``fields`` what every entry has besides its message
(``CONTAINER_ID`` …).
"""

from __future__ import annotations

import array
import errno
import os
import socket
import time
from collections.abc import Iterable

from sampan.linux import memfd
from sampan.runtime.logs.lines import Message
from sampan.runtime.types import LogConfig

_ERROR, _INFORMATION = "3", "6"
_PAUSES = (0.05, 0.1, 0.3, 0.6, 1.0)


class Journald:
    """Sends to one journal's socket, which may be made anew at any time."""

    def __init__(self, config: LogConfig) -> None:
        self._path = str(config.remote["socket"])
        if not os.path.exists(self._path):
            raise OSError("journald is not enabled on this host")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._common = b"".join(
            field(name, str(value).encode()) for name, value in config.remote["fields"].items()
        )
        self._epoch = f"{time.time_ns():x}-{os.getpid()}"
        self._ordinal = 0

    def send(self, messages: list[Message]) -> None:
        for message in messages:
            self._deliver(self._entry(message))

    def _entry(self, message: Message) -> bytes:
        self._ordinal += 1
        seconds, fraction = divmod(message.time, 10**9)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        fields = [
            ("PRIORITY", _ERROR if message.stream == 2 else _INFORMATION),
            ("SYSLOG_TIMESTAMP", f"{stamp}.{fraction:09}Z"),
            ("CONTAINER_LOG_EPOCH", self._epoch),
            ("CONTAINER_LOG_ORDINAL", str(self._ordinal)),
        ]
        if message.part:
            fields += [
                ("CONTAINER_PARTIAL_ID", message.part.id),
                ("CONTAINER_PARTIAL_ORDINAL", str(message.part.ordinal)),
                ("CONTAINER_PARTIAL_LAST", "true" if message.part.last else "false"),
            ]
            if not message.part.last:
                fields.append(("CONTAINER_PARTIAL_MESSAGE", "true"))
        return self._common + field("MESSAGE", message.line) + _fields(fields)

    def _deliver(self, entry: bytes) -> None:
        for pause in _PAUSES:
            try:
                self._send(entry)
                return
            except OSError:
                # It is being restarted.
                time.sleep(pause)

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as failure:
            if failure.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            # Too large for a datagram: a sealed memory file goes in its place.
            memory = memfd.sealed_bytes("journal-entry", entry)
            try:
                rights = array.array("i", [memory])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                self._socket.sendmsg([], ancillary, 0, self._path)
            finally:
                os.close(memory)

    def close(self) -> None:
        self._socket.close()


def field(name: str, value: bytes) -> bytes:
    """One field: ``NAME=value``, or with its length if the value has several lines."""
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)


def _fields(pairs: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(field(name, value.encode()) for name, value in pairs)
