"""Netlink: packing of messages and attributes, and one request socket.

A request is a batch: any number of messages in one ``sendmsg``, each acknowledged; the kernel does
them in order.  :meth:`Socket.request` waits for all acknowledgements and raises for the first
failed one.

The wire format is that of ``linux/netlink.h``: everything in host byte order, aligned to 4.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_MULTI = 0x02
NLM_F_DUMP_INTR = 0x10
NLM_F_ACK_TLVS = 0x200
NLM_F_CAPPED = 0x100
NLMSGERR_ATTR_MSG = 1

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_NO_ENOBUFS = 5
NETLINK_EXT_ACK = 11

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 17
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string attribute, terminated by NUL."""
    return attribute(kind, value.encode("ascii") + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(1, "little"))


def u32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in host byte order (rtnetlink)."""
    return attribute(kind, struct.pack("=I", value))


def be16(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(2, "big"))


def be32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in network byte order (nfnetlink)."""
    return attribute(kind, value.to_bytes(4, "big"))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The ``(type, payload)`` pairs in a run of attributes."""
    offset = 0
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


class Message(NamedTuple):
    """A message to send; ``what`` says in an error what it was for.  ``ignore`` are error numbers
    that count as success."""

    kind: int
    flags: int
    payload: bytes
    what: str
    ignore: tuple[int, ...] = ()


class Received(NamedTuple):
    kind: int
    flags: int
    sequence: int
    payload: bytes


def parse(data: bytes) -> Iterator[Received]:
    """The messages in one received datagram."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            return
        yield Received(kind, flags, sequence, data[offset + 16 : offset + length])
        offset += (length + 3) & ~3


def pack(message: Message, flags: int, sequence: int) -> bytes:
    payload = message.payload
    length = 16 + len(payload)
    return (
        _HEADER.pack(length, message.kind, message.flags | flags, sequence, 0)
        + payload
        + _PADDING[length & 3]
    )


def error_of(received: Received) -> int:
    """The positive error number of an NLMSG_ERROR message, 0 for an acknowledgement."""
    code: int = struct.unpack_from("=i", received.payload)[0]
    return -code


def explanation(received: Received) -> str:
    """The kernel's own words in an extended acknowledgement, if there are any."""
    if not received.flags & NLM_F_ACK_TLVS or len(received.payload) < 20:
        return ""
    offset = 20
    if not received.flags & NLM_F_CAPPED:
        (length,) = struct.unpack_from("=I", received.payload, 4)
        offset = 4 + ((length + 3) & ~3)
    for kind, payload in attributes(received.payload[offset:]):
        if kind == NLMSGERR_ATTR_MSG:
            return payload.rstrip(b"\0").decode("ascii", "replace")
    return ""


def failure(code: int, what: str, explained: str = "") -> OSError:
    """The error of a failed message: what was tried, and why it failed."""
    reason = os.strerror(code)
    return OSError(code, f"{what}: {reason} ({explained})" if explained else f"{what}: {reason}")


class Socket:
    """A netlink socket bound to the network namespace that was current when it was made."""

    def __init__(self, protocol: int, groups: Sequence[int] = ()) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._sequence = 1

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_blocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def receive(self) -> list[Received]:
        """The messages of one datagram (for notifications)."""
        return list(parse(self._socket.recv(_RECEIVE)))

    def request(self, messages: Sequence[Message]) -> None:
        """Send all in one datagram and wait until each is acknowledged.

        Raises :class:`OSError` for the first message that failed; the kernel has tried the later
        ones too.
        """
        first = self._sequence
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                pack(message, NLM_F_REQUEST | NLM_F_ACK, first + index)
                for index, message in enumerate(messages)
            )
        )
        waiting = len(messages)
        failed: OSError | None = None
        while waiting:
            for received in parse(self._socket.recv(_RECEIVE)):
                if received.kind != NLMSG_ERROR or not first <= received.sequence < self._sequence:
                    continue
                waiting -= 1
                code = error_of(received)
                if code and failed is None:
                    message = messages[received.sequence - first]
                    if code not in message.ignore:
                        failed = failure(code, message.what, explanation(received))
        if failed is not None:
            raise failed

    def transaction(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """Send a batch that the kernel applies as a whole or not at all (nfnetlink).

        Only the last message asks for an acknowledgement; errors are reported for each bad message.
        """
        first = self._sequence
        self._sequence += len(messages) + 2
        parts = [pack(begin, NLM_F_REQUEST, first)]
        last = len(messages) - 1
        for index, message in enumerate(messages):
            flags = NLM_F_REQUEST | NLM_F_ACK if index == last else NLM_F_REQUEST
            parts.append(pack(message, flags, first + 1 + index))
        parts.append(pack(end, NLM_F_REQUEST, first + 1 + len(messages)))
        data = b"".join(parts)
        if len(data) > 100_000:
            # A large batch must fit the send buffer whole: SO_SNDBUFFORCE needs CAP_NET_ADMIN only.
            self._socket.setsockopt(socket.SOL_SOCKET, 32, 2 * len(data) + 65536)
        self._socket.send(data)
        # The kernel has queued every answer by the time that send returns.
        acknowledged = False
        failed: OSError | None = None
        while (answer := self._poll()) is not None:
            for received in parse(answer):
                if received.kind != NLMSG_ERROR or received.sequence < first:
                    continue
                code = error_of(received)
                index = received.sequence - first - 1
                if code == 0:
                    acknowledged = acknowledged or index == last
                elif failed is None:
                    what = messages[index].what if 0 <= index <= last else begin.what
                    failed = failure(code, what, explanation(received))
        if failed is not None:
            raise failed
        if not acknowledged:
            raise failure(errno.EPROTO, begin.what, "the batch was not acknowledged")

    def _poll(self) -> bytes | None:
        try:
            return self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def dump(self, kind: int, payload: bytes, what: str) -> list[Received]:
        """All objects of a dump request; repeated when the kernel says that it was torn."""
        while True:
            sequence = self._sequence
            self._sequence += 1
            self._socket.send(
                pack(Message(kind, NLM_F_DUMP, payload, what), NLM_F_REQUEST, sequence)
            )
            found: list[Received] = []
            torn = done = False
            while not done:
                for received in parse(self._socket.recv(_RECEIVE)):
                    if received.sequence != sequence:
                        continue
                    torn = torn or bool(received.flags & NLM_F_DUMP_INTR)
                    if received.kind == NLMSG_DONE:
                        done = True
                    elif received.kind == NLMSG_ERROR:
                        code = error_of(received)
                        if code:
                            raise failure(code, what, explanation(received))
                        done = True
                    else:
                        found.append(received)
                        if not received.flags & NLM_F_MULTI:
                            done = True
            if not torn:
                return found
