"""Open one connection to a host: unix, TCP with or without TLS, or a command over ssh."""

from __future__ import annotations

import os

from sampan.client.failures import ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Protocol

    from sampan.client.hosts import Host, Tls

    class Socket(Protocol):
        """What the HTTP layer needs of a socket; ``_socket.socket`` and ``TlsSocket`` have it."""

        def recv(self, size: int, /) -> bytes: ...
        def send(self, data: bytes | memoryview, /) -> int: ...
        def sendall(self, data: bytes, /) -> None: ...
        def fileno(self) -> int: ...
        def shutdown(self, how: int, /) -> None: ...
        def gettimeout(self) -> float | None: ...
        def settimeout(self, value: float | None, /) -> None: ...
        def close(self) -> None: ...


SUN_PATH = 107
CONNECT_SECONDS = 30.0


def dial(host: Host, timeout: float | None = None) -> Socket:
    """A connected socket; reads wait at most ``timeout`` seconds (default: for ever).

    :raises ConnectionFailed: nothing listens there, with the address in the message.
    """
    scheme, _, rest = host.address.partition("://")
    try:
        if scheme == "unix":
            sock = _unix(rest)
        elif scheme == "ssh":
            sock = _ssh(rest)
        else:
            sock = _tcp(rest, host.tls)
    except OSError as error:
        raise unreachable(host.address, error) from None
    if timeout is not None:
        sock.settimeout(timeout)
    return sock


def would_block(error: OSError) -> bool:
    """Whether a socket that does not wait has just said: not now."""
    return isinstance(error, BlockingIOError)


def unreachable(address: str, error: OSError) -> ConnectionFailed:
    """The sentence for an address at which nobody answers."""
    if isinstance(error, PermissionError):
        return ConnectionFailed(
            "permission denied while trying to connect to the sampan daemon socket at "
            f"{address}: you must be root, or a member of the socket's group"
        )
    reason = "" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else f" ({error})"
    return ConnectionFailed(
        f"Cannot connect to the sampan daemon at {address}. Is the sampan daemon running?{reason}"
    )


def _unix(path: str) -> Socket:
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        if len(path.encode()) <= SUN_PATH:
            sock.connect(path)
        else:
            directory, name = os.path.split(path)
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
    except OSError:
        sock.close()
        raise
    return sock


def _tcp(rest: str, tls: Tls | None) -> Socket:
    name, plain = _tcp_plain(rest, tls)
    if tls is None:
        return plain
    from sampan.client.tls import TlsSocket, context

    try:
        return TlsSocket(plain, context(tls), name)
    except BaseException:
        plain.close()
        raise


def _tcp_plain(rest: str, tls: Tls | None) -> tuple[str, socket.socket]:
    """The server's name and a connection to it."""
    import socket

    from sampan.client.hosts import TCP_PORT, TLS_PORT

    name, _, port = rest.partition("/")[0].rpartition(":")
    if not name or not port.isdecimal():
        name, port = rest.partition("/")[0], str(TLS_PORT if tls else TCP_PORT)
    name = name.strip("[]")
    plain = socket.create_connection((name, int(port)), CONNECT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.settimeout(None)
    return name, plain


def bare(host: Host) -> tuple[socket.socket, str]:
    """A connected socket before any TLS, and the server's name: what an event loop builds on.

    :raises ConnectionFailed: nothing listens there.
    """
    import socket

    scheme, _, rest = host.address.partition("://")
    try:
        if scheme == "tcp":
            name, plain = _tcp_plain(rest, host.tls)
            return plain, name
        found = _unix(rest) if scheme == "unix" else _ssh(rest)
    except OSError as error:
        raise unreachable(host.address, error) from None
    duplicate = socket.socket(fileno=os.dup(found.fileno()))
    found.close()
    return duplicate, ""


def _ssh(rest: str) -> Socket:
    """A socket whose other end is ``sampan system dial-stdio`` on another machine."""
    import socket
    import subprocess

    destination, _, path = rest.partition("/")
    user, at, address = destination.rpartition("@")
    name, colon, port = address.rpartition(":")
    if not colon:
        name = address
    command = ["ssh", "-o", "ConnectTimeout=30"]
    command += ["-l", user] if at else []
    command += ["-p", port] if colon else []
    remote = ["sampan", *(["--host", f"unix:///{path}"] if path else []), "system", "dial-stdio"]
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            subprocess.Popen(
                [*command, "--", name, *remote], stdin=theirs.fileno(), stdout=theirs.fileno()
            )
        except FileNotFoundError:
            raise ConnectionFailed(
                "cannot reach a daemon over ssh: no program ssh (Debian package openssh-client)"
            ) from None
    return ours
