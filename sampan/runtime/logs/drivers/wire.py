"""Stream connections to receivers of logs: made, watched and made again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

CONNECT_TIMEOUT = 5.0
_PAUSES = (0.0, 0.1, 0.3, 0.6, 1.0)


def dial(kind: str, target: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A connection by ``make``.  Raises OSError with the words of Docker's errors."""
    try:
        return make()
    except socket.gaierror:
        raise OSError(f"dial {kind}: lookup {target.rpartition(':')[0]}: no such host") from None
    except OSError as failure:
        reason = (failure.strerror or str(failure)).lower()
        raise OSError(f"dial {kind} {target}: connect: {reason}") from None


def tcp(host: str, port: int, tls: dict[str, Any] | None = None) -> socket.socket:
    """A TCP connection, with TLS if there are settings for it: ``ca``, ``cert``, ``key`` are
    files or "", ``verify`` tells whether the other side must prove its name."""
    plain = socket.create_connection((host, port), CONNECT_TIMEOUT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if tls is None:
        plain.settimeout(None)
        return plain
    import ssl

    context = ssl.create_default_context(cafile=tls.get("ca") or None)
    if not tls.get("verify", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.get("cert"):
        context.load_cert_chain(tls["cert"], tls.get("key") or None)
    try:
        secure = context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
    secure.settimeout(None)
    return secure


def unix(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A connection to a local socket."""
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection on which it never sends: what would be
    written to it now would be lost without an error."""
    try:
        connection.setblocking(False)
        return connection.recv(1) == b""
    except (BlockingIOError, InterruptedError):
        return False
    except OSError as failure:
        # TLS has no data, which it tells by an error of its own.
        return "did not complete" not in str(failure)
    finally:
        connection.setblocking(True)


class Line:
    """A connection that is made again when it breaks, for a little while.

    After a failure further data is given up at once until it is worth trying again, so that a
    receiver that is away costs little.
    """

    def __init__(self, make: Callable[[], socket.socket], *, stream: bool = True) -> None:
        self._make = make
        self._stream = stream
        self._connection: socket.socket | None = make()
        self._not_before = 0.0

    def send(self, data: bytes) -> bool:
        """Whether it could be sent."""
        if self._connection is None and time.monotonic() < self._not_before:
            return False
        pauses = _PAUSES if self._connection else _PAUSES[:1]
        for pause in pauses:
            time.sleep(pause)
            try:
                if self._connection and self._stream and has_ended(self._connection):
                    self._drop()
                if self._connection is None:
                    self._connection = self._make()
                if self._stream:
                    self._connection.sendall(data)
                else:
                    self._connection.send(data)
                return True
            except OSError:
                self._drop()
        self._not_before = time.monotonic() + 1.0
        return False

    def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None
