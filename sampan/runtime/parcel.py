"""Parcels: messages with file descriptors over a SEQPACKET socket, of any size and any count.

A packet begins with one byte: ``0`` the message follows in it; ``1`` the message is in a memory
file, the last descriptor; ``2`` only descriptors, which belong to the next parcel.  The kernel
passes at most 253 descriptors a packet.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from sampan.linux import memfd

INLINE_LIMIT = 48 * 1024
_FDS_A_PACKET = 200
_RECEIVE = INLINE_LIMIT + 1
_ANCILLARY = socket.CMSG_SPACE(4 * 253)
_INLINE, _IN_MEMORY, _MORE = b"\0", b"\1", b"\2"


def _send(sock: socket.socket, kind: bytes, body: bytes, fds: Sequence[int]) -> None:
    if fds:
        rights = array.array("i", fds)
        sock.sendmsg([kind, body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    else:
        sock.sendmsg([kind, body])


def send(sock: socket.socket, message: bytes, fds: Sequence[int] = ()) -> None:
    """Send one parcel.  On a non-blocking socket BlockingIOError means that nothing was sent,
    unless there are more than 200 descriptors (use a blocking socket for those)."""
    while len(fds) > _FDS_A_PACKET:
        _send(sock, _MORE, b"", fds[:_FDS_A_PACKET])
        fds = fds[_FDS_A_PACKET:]
    if len(message) <= INLINE_LIMIT:
        _send(sock, _INLINE, message, fds)
        return
    memory = memfd.sealed_bytes("parcel", message)
    try:
        _send(sock, _IN_MEMORY, b"", [*fds, memory])
    finally:
        os.close(memory)


class Receiver:
    """Receives the parcels of one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._early: list[int] = []

    def receive(self) -> tuple[bytes, list[int]] | None:
        """The next parcel, or None at the end.  Descriptors are close-on-exec and the caller's."""
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(
                _RECEIVE, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
            fds = array.array("i")
            for level, kind, rights in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
            if not data:
                return None
            if data[:1] == _MORE:
                self._early += fds
                continue
            received = self._early + list(fds)
            self._early = []
            if data[:1] == _INLINE:
                return data[1:], received
            memory = received.pop()
            try:
                return memfd.read_all(memory), received
            finally:
                os.close(memory)
