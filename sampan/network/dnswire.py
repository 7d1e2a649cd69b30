"""DNS messages, as far as a resolver for containers needs them (RFC 1035, RFC 6891)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

TYPE_A = 1
TYPE_PTR = 12
TYPE_OPT = 41
TYPE_AAAA = 28
TYPE_ANY = 255
CLASS_IN = 1

NO_ERROR = 0
FORMAT_ERROR = 1
SERVER_FAILURE = 2
NAME_ERROR = 3
NOT_IMPLEMENTED = 4

_HEADER = struct.Struct(">HHHHHH")
_QUESTION_TAIL = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_RESPONSE = 0x8000
_OPCODE = 0x7800
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080
_TO_THE_QUESTION = b"\xc0\x0c"
_TTL = 600
_DEFAULT_SIZE = 512
MAXIMUM_SIZE = 65535


class Query(NamedTuple):
    """A question.  ``name`` is lower case without the final dot; ``size`` is what the asker takes
    in one datagram; ``edns`` whether it said so; ``question`` the raw question section."""

    identity: int
    flags: int
    name: str
    kind: int
    klass: int
    question: bytes
    size: int
    edns: bool


class Malformed(ValueError):
    """Not a query with one question."""


def parse(data: bytes) -> Query:
    """Raises :class:`Malformed`."""
    if len(data) < 12:
        raise Malformed("too short for a header")
    identity, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE or questions != 1 or answers or authorities:
        raise Malformed("not a query with one question")
    labels = []
    offset = 12
    while True:
        if offset >= len(data):
            raise Malformed("the name does not end")
        length = data[offset]
        if length == 0:
            break
        if length > 63 or offset - 12 > 255:
            raise Malformed("a bad label")
        labels.append(data[offset + 1 : offset + 1 + length])
        offset += 1 + length
    end = offset + 5
    if end > len(data):
        raise Malformed("the question does not end")
    kind, klass = _QUESTION_TAIL.unpack_from(data, offset + 1)
    size, edns = _edns(data, end, additional)
    name = b".".join(labels).decode("latin-1").lower()
    return Query(identity, flags, name, kind, klass, data[12:end], size, edns)


def opcode(query: Query) -> int:
    return (query.flags & _OPCODE) >> 11


def _edns(data: bytes, offset: int, additional: int) -> tuple[int, bool]:
    # The OPT record has the root as its name; it is the only additional record of a query, but for
    # a signature, which comes last.
    if additional and len(data) >= offset + 11 and data[offset] == 0:
        kind, size = _QUESTION_TAIL.unpack_from(data, offset + 1)
        if kind == TYPE_OPT:
            return max(size, _DEFAULT_SIZE), True
    return _DEFAULT_SIZE, False


def answer(query: Query, code: int, records: Sequence[tuple[int, bytes]], limit: int) -> bytes:
    """A response with (type, data) records for the name that was asked for; cut to what fits in
    ``limit`` bytes with the TC bit set."""
    flags = _RESPONSE | _RECURSION_AVAILABLE | (query.flags & (_OPCODE | _RECURSION_DESIRED)) | code
    tail = b"\0" + struct.pack(">HHIH", TYPE_OPT, 1232, 0, 0) if query.edns else b""
    room = limit - 12 - len(query.question) - len(tail)
    packed = []
    for kind, data in records:
        record = _TO_THE_QUESTION + _RECORD.pack(kind, CLASS_IN, _TTL, len(data)) + data
        room -= len(record)
        if room < 0:
            flags |= _TRUNCATED
            break
        packed.append(record)
    header = _HEADER.pack(query.identity, flags, 1, len(packed), 0, 1 if tail else 0)
    return header + query.question + b"".join(packed) + tail


def failure(data: bytes, code: int) -> bytes:
    """A response without a question for a query that could not be parsed; empty if even its
    header is missing or it is a response."""
    if len(data) < 12:
        return b""
    identity, flags = struct.unpack_from(">HH", data)
    if flags & _RESPONSE:
        return b""
    return _HEADER.pack(identity, _RESPONSE | (flags & _OPCODE) | code, 0, 0, 0, 0)


def encode_name(name: str) -> bytes:
    """A name as labels, uncompressed."""
    labels = [label.encode("latin-1")[:63] for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reverse_address(name: str) -> bytes | None:
    """The packed address that an ``in-addr.arpa`` or ``ip6.arpa`` name stands for."""
    if name.endswith(".in-addr.arpa"):
        parts = name[: -len(".in-addr.arpa")].split(".")
        if len(parts) != 4 or not all(part.isdecimal() and int(part) < 256 for part in parts):
            return None
        return bytes(int(part) for part in reversed(parts))
    if name.endswith(".ip6.arpa"):
        digits = name[: -len(".ip6.arpa")].split(".")
        if len(digits) != 32 or any(len(d) != 1 or d not in "0123456789abcdef" for d in digits):
            return None
        return bytes.fromhex("".join(reversed(digits)))
    return None


def with_identity(message: bytes, identity: int) -> bytes:
    return identity.to_bytes(2, "big") + message[2:]
