"""The sockets to serve on: unix, loopback TCP, and those that systemd passes."""

from __future__ import annotations

import grp
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sampan.errors import InvalidParameter, Unavailable

log = logging.getLogger("sampan.daemon")

FIRST_PASSED_FD = 3
SOCKET_MODE = 0o660
GROUPS = ("docker", "sampan")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and the TLS to speak on it."""

    sock: socket.socket
    tls: ssl.SSLContext | None = None


def passed(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that systemd's socket activation has passed to this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    found = []
    for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + count):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found


def open_all(
    addresses: Iterable[str], group: str, tls: ssl.SSLContext | None = None
) -> list[Listener]:
    """Bind and listen on each address; on TCP with ``tls``.

    :raises InvalidParameter: an address of an unknown form, TCP beyond loopback, unknown group.
    :raises Unavailable: the address cannot be bound.
    """
    sockets: list[Listener] = []
    for address in addresses:
        scheme, _, rest = address.partition("://")
        if scheme == "fd":
            inherited = passed()
            if not inherited:
                raise InvalidParameter(f"no sockets were passed by systemd for {address}")
            sockets += [Listener(sock) for sock in inherited]
        elif scheme == "unix":
            sockets.append(Listener(_unix(Path(rest), group)))
        elif scheme == "tcp":
            sockets.append(Listener(_tcp(address, rest, tls), tls))
        else:
            raise InvalidParameter(
                f"cannot listen on {address!r}: it must be unix://PATH, tcp://HOST:PORT or fd://"
            )
    return sockets


def _unix(path: Path, group: str) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # Nobody may connect between bind and chmod; and the path may be longer than sun_path.
    before = os.umask(0o777)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")
    except OSError as error:
        raise Unavailable(f"cannot listen on unix://{path}: {error.strerror}") from None
    finally:
        os.umask(before)
        os.close(directory)
    owner = _group_id(group)
    if owner is not None:
        os.chown(path, -1, owner)
    path.chmod(SOCKET_MODE)
    sock.listen(1024)
    sock.setblocking(False)
    return sock


def _group_id(name: str) -> int | None:
    if name:
        try:
            return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
        except KeyError:
            raise InvalidParameter(f"the group {name!r} for the socket does not exist") from None
    for candidate in GROUPS:
        try:
            return grp.getgrnam(candidate).gr_gid
        except KeyError:
            continue
    return None


def _tcp(address: str, rest: str, tls: ssl.SSLContext | None) -> socket.socket:
    host, _, port = rest.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        raise InvalidParameter(f"cannot listen on {address!r}: not tcp://ADDRESS:PORT") from None
    mutual = tls is not None and tls.verify_mode == ssl.CERT_REQUIRED
    if not loopback and not mutual:
        raise InvalidParameter(
            f"cannot listen on {address!r}: TCP beyond loopback needs mutual TLS "
            "(--tlsverify with --tlscacert, --tlscert and --tlskey)"
        )
    if not mutual:
        log.warning("%s is not protected: every local user has root's rights through it", address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, number))
    except OSError as error:
        raise Unavailable(f"cannot listen on {address}: {error.strerror}") from None
    sock.listen(1024)
    sock.setblocking(False)
    return sock
