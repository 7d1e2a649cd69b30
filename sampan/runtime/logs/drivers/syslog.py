"""The ``syslog`` driver: RFC 3164 and RFC 5424 over UDP, TCP, TLS and local sockets.

Settings: ``network`` is ``udp``, ``tcp``, ``tcp+tls``, ``unix``, ``unixgram`` or "" (this host's
log socket); ``address`` is ``[host, port]`` or a path; ``facility`` a number; ``format`` one of
"" (as this host's own programs write), ``rfc3164``, ``rfc5424``, ``rfc5424micro``; ``tls`` as
:func:`sampan.runtime.logs.drivers.wire.tcp` wants it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from sampan.runtime.logs.drivers import wire
from sampan.runtime.logs.lines import Message
from sampan.runtime.types import LogConfig

LOCAL_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")
_ERROR, _INFORMATION = 3, 6
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

Formatter = Callable[[int, int, str], str]
"""(priority, time in nanoseconds, what was written) to the message."""


class Syslog:
    """One connection to a syslog server."""

    def __init__(self, config: LogConfig) -> None:
        settings = config.remote
        self._facility = int(settings["facility"]) << 3
        self._format = formatter(settings["format"], settings["tag"])
        network = settings["network"]
        self._counted = network == "tcp+tls" and settings["format"].startswith("rfc5424")
        self._stream = network in ("tcp", "tcp+tls", "unix")
        self._line = wire.Line(lambda: _connect(settings), stream=self._stream)

    def send(self, messages: list[Message]) -> None:
        parts = [self._packed(message) for message in messages]
        if self._stream:
            self._line.send(b"".join(parts))
            return
        for part in parts:
            self._line.send(part)

    def _packed(self, message: Message) -> bytes:
        priority = self._facility | (_ERROR if message.stream == 2 else _INFORMATION)
        text = self._format(priority, message.time, message.line.decode(errors="replace"))
        data = text.encode() + b"\n"
        # RFC 5425 counts the bytes; elsewhere the newline ends the message.
        return b"%d %s" % (len(data), data) if self._counted else data

    def close(self) -> None:
        self._line.close()


def _connect(settings: dict[str, Any]) -> socket.socket:
    network, address = settings["network"], settings["address"]
    if not network:
        return _local()
    if network in ("unix", "unixgram"):
        kind = socket.SOCK_STREAM if network == "unix" else socket.SOCK_DGRAM
        return wire.dial(network, address, lambda: wire.unix(address, kind))
    host, port = address
    if network == "udp":
        return wire.dial("udp", f"{host}:{port}", lambda: _udp(host, port))
    tls = settings["tls"] if network == "tcp+tls" else None
    return wire.dial("tcp", f"{host}:{port}", lambda: wire.tcp(host, port, tls))


def _local() -> socket.socket:
    for path in LOCAL_SOCKETS:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                return wire.unix(path, kind)
            except OSError:
                continue
    raise OSError("Unix syslog delivery error: no syslog socket on this host")


def _udp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def formatter(kind: str, tag: str) -> Formatter:
    """What makes messages of this format."""
    host, pid = socket.gethostname(), os.getpid()
    if kind == "":
        return lambda priority, at, text: f"<{priority}>{_stamp(at)} {tag}[{pid}]: {text}"
    if kind == "rfc3164":
        return lambda priority, at, text: f"<{priority}>{_stamp(at)} {host} {tag}[{pid}]: {text}"
    digits = 6 if kind == "rfc5424micro" else 0

    def rfc5424(priority: int, at: int, text: str) -> str:
        return f"<{priority}>1 {_rfc3339(at, digits)} {host} {tag} {pid} {tag} - {text}"

    return rfc5424


def _stamp(at: int) -> str:
    """The local time as RFC 3164 has it: ``Jan  2 15:04:05``, in English."""
    when = time.localtime(at // 10**9)
    clock = time.strftime("%H:%M:%S", when)
    return f"{_MONTHS[when.tm_mon - 1]} {when.tm_mday:2} {clock}"


def _rfc3339(at: int, digits: int) -> str:
    seconds, fraction = divmod(at, 10**9)
    when = time.localtime(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", when)
    if digits:
        text += f".{fraction:09}"[: 1 + digits]
    if not when.tm_gmtoff:
        return text + "Z"
    sign = "-" if when.tm_gmtoff < 0 else "+"
    hours, minutes = divmod(abs(when.tm_gmtoff) // 60, 60)
    return f"{text}{sign}{hours:02}:{minutes:02}"
