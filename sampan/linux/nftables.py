"""nfnetlink for nf_tables: an assembler for rules, and messages for tables, chains, sets.

A rule is a list of expressions over 32-bit registers (``REG`` is the first; an IPv6 address takes
four).  The functions of the first half each make one expression, those of the second half one
message; :func:`commit` sends messages as one transaction.  Formats are those of
``linux/netfilter/nf_tables.h``; the numbers of data types are those of the ``nft`` program, which
needs them only to print a set.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence

from sampan.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Message,
    Received,
    Socket,
    attribute,
    attributes,
    be32,
    nested,
    text,
)

NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10

HOOK_PREROUTING = 0
HOOK_INPUT = 1
HOOK_FORWARD = 2
HOOK_OUTPUT = 3
HOOK_POSTROUTING = 4

PRIORITY_RAW = -300
PRIORITY_MANGLE = -150
PRIORITY_DSTNAT = -100
PRIORITY_FILTER = 0
PRIORITY_SRCNAT = 100

NFNLGRP_NFTABLES = 7

_SUBSYSTEM = 10
_BATCH_BEGIN = 0x10
_BATCH_END = 0x11
(
    _NEWTABLE,
    _GETTABLE,
    _DELTABLE,
    _NEWCHAIN,
    _GETCHAIN,
    _DELCHAIN,
    _NEWRULE,
    _GETRULE,
    _DELRULE,
    _NEWSET,
    _GETSET,
    _DELSET,
    _NEWSETELEM,
    _GETSETELEM,
    _DELSETELEM,
) = (_SUBSYSTEM << 8 | number for number in range(15))

_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_LIST_ELEMENT = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH = 1, 2, 3, 4, 5
_SET_DATA_TYPE, _SET_DATA_LENGTH, _SET_ID, _SET_USERDATA = 6, 7, 10, 13
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS_LIST = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS = 1, 2, 3
_ELEMENT_INTERVAL_END = 1
_SET_INTERVAL = 0x4
_SET_MAP = 0x8
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2

DROP = 0
ACCEPT = 1
_JUMP = -3
RETURN = -5

REG = 8
_REG_VERDICT = 0

META_IIFNAME = 6
META_OIFNAME = 7
META_NFPROTO = 15
META_L4PROTO = 16

CT_STATE = 0
CT_STATUS = 2
CT_ESTABLISHED_RELATED = 0x2 | 0x4
CT_STATUS_DNAT = 0x20

BASE_NETWORK = 1
BASE_TRANSPORT = 2

# Data types of the nft program, for its display of sets.
TYPE_IPV4 = 7
TYPE_IPV6 = 8
TYPE_PROTOCOL = 12
TYPE_SERVICE = 13
TYPE_IFNAME = 41
_TYPE_LENGTH = {TYPE_IPV4: 4, TYPE_IPV6: 16, TYPE_PROTOCOL: 4, TYPE_SERVICE: 4, TYPE_IFNAME: 16}
_TYPE_BITS = 6

IFNAME_LENGTH = 16
# What nft stores beside a set to print its keys: the tag KEYBYTEORDER with the value "host".
_HOST_BYTE_ORDER = bytes([0, 4]) + struct.pack("=I", 1)


# Expressions


def _expression(name: str, *data: bytes) -> bytes:
    return nested(
        _LIST_ELEMENT,
        text(_EXPRESSION_NAME, name),
        nested(_EXPRESSION_DATA, *data),
    )


def meta(key: int, register: int = REG) -> bytes:
    """Load a property of the packet."""
    return _expression("meta", be32(1, register), be32(2, key))


def payload(base: int, offset: int, length: int, register: int = REG) -> bytes:
    """Load bytes of a header."""
    return _expression(
        "payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length)
    )


def set_port(offset: int, checksum_offset: int, register: int = REG) -> bytes:
    """Write 16 bits of the transport header and mend its checksum."""
    return _expression(
        "payload",
        be32(5, register),
        be32(2, BASE_TRANSPORT),
        be32(3, offset),
        be32(4, 2),
        be32(6, 1),
        be32(7, checksum_offset),
    )


def conntrack(key: int, register: int = REG) -> bytes:
    """Load a property of the packet's connection."""
    return _expression("ct", be32(1, register), be32(2, key))


def fib_daddr_type(register: int = REG) -> bytes:
    """Load the route type of the destination address (RTN_LOCAL is 2)."""
    return _expression("fib", be32(1, register), be32(2, 3), be32(3, 2))


def equal(data: bytes, register: int = REG) -> bytes:
    """Go on with the rule only if the register holds ``data``."""
    return _compare(0, data, register)


def unequal(data: bytes, register: int = REG) -> bytes:
    return _compare(1, data, register)


def _compare(operation: int, data: bytes, register: int) -> bytes:
    return _expression(
        "cmp", be32(1, register), be32(2, operation), nested(3, attribute(_DATA_VALUE, data))
    )


def mask(data: bytes, register: int = REG) -> bytes:
    """And the register with ``data``."""
    return _expression(
        "bitwise",
        be32(1, register),
        be32(2, register),
        be32(3, len(data)),
        nested(4, attribute(_DATA_VALUE, data)),
        nested(5, attribute(_DATA_VALUE, bytes(len(data)))),
    )


def load(data: bytes, register: int = REG) -> bytes:
    """Load a constant."""
    return _expression("immediate", be32(1, register), nested(2, attribute(_DATA_VALUE, data)))


def lookup(name: str, register: int = REG) -> bytes:
    """Go on only if the key that starts at the register is in the set."""
    return _expression("lookup", text(1, name), be32(2, register))


def lookup_not(name: str, register: int = REG) -> bytes:
    return _expression("lookup", text(1, name), be32(2, register), be32(5, 1))


def translate(name: str, register: int = REG, result: int = REG) -> bytes:
    """Load the data that the map has for the key; end the rule if there is none."""
    return _expression("lookup", text(1, name), be32(2, register), be32(3, result))


def verdict(code: int) -> bytes:
    return _verdict(be32(_VERDICT_CODE, code & 0xFFFFFFFF))


def jump(chain: str) -> bytes:
    return _verdict(be32(_VERDICT_CODE, _JUMP & 0xFFFFFFFF), text(_VERDICT_CHAIN, chain))


def _verdict(*data: bytes) -> bytes:
    return _expression("immediate", be32(1, _REG_VERDICT), nested(2, nested(_DATA_VERDICT, *data)))


def dnat(family: int, address: int, port: int) -> bytes:
    """Translate the destination to what the two registers hold."""
    return _expression("nat", be32(1, 1), be32(2, family), be32(3, address), be32(5, port))


def snat(family: int, address: int) -> bytes:
    """Translate the source to the address that the register holds."""
    return _expression("nat", be32(1, 0), be32(2, family), be32(3, address))


def masquerade() -> bytes:
    return _expression("masq")


# Messages


def _header(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def add_table(family: int, table: str) -> Message:
    return Message(
        _NEWTABLE,
        NLM_F_CREATE,
        _header(family) + text(_TABLE_NAME, table),
        f"making the nftables table {table}",
    )


def delete_table(family: int, table: str) -> Message:
    return Message(
        _DELTABLE,
        0,
        _header(family) + text(_TABLE_NAME, table),
        f"deleting the nftables table {table}",
    )


def add_chain(family: int, table: str, name: str) -> Message:
    """A chain to jump to."""
    return Message(
        _NEWCHAIN,
        NLM_F_CREATE,
        _header(family) + text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, name),
        f"making the nftables chain {name}",
    )


def add_base_chain(
    family: int, table: str, name: str, kind: str, hook: int, priority: int
) -> Message:
    """A chain on a hook; ``kind`` is ``filter`` or ``nat``; what no rule decides is accepted."""
    return Message(
        _NEWCHAIN,
        NLM_F_CREATE,
        _header(family)
        + text(_CHAIN_TABLE, table)
        + text(_CHAIN_NAME, name)
        + nested(
            _CHAIN_HOOK,
            be32(_HOOK_NUMBER, hook),
            be32(_HOOK_PRIORITY, priority & 0xFFFFFFFF),
        )
        + be32(_CHAIN_POLICY, ACCEPT)
        + text(_CHAIN_TYPE, kind),
        f"making the nftables chain {name} (does the kernel have nf_tables and its {kind} chains?)",
    )


def add_rule(family: int, table: str, chain: str, *expressions: bytes) -> Message:
    """A rule at the end of a chain."""
    return Message(
        _NEWRULE,
        NLM_F_CREATE | NLM_F_APPEND,
        _header(family)
        + text(_RULE_TABLE, table)
        + text(_RULE_CHAIN, chain)
        + nested(_RULE_EXPRESSIONS, *expressions),
        f"adding a rule to the nftables chain {chain}",
    )


def _type_of(types: Sequence[int]) -> int:
    number = 0
    for kind in types:
        number = number << _TYPE_BITS | kind
    return number


def add_set(
    family: int,
    table: str,
    name: str,
    number: int,
    key: Sequence[int],
    data: Sequence[int] = (),
    *,
    interval: bool = False,
) -> Message:
    """A set of keys, or with ``data`` a map.  ``number`` is unique in the transaction; an
    ``interval`` set holds ranges of a single-field key."""
    flags = (_SET_INTERVAL if interval else 0) | (_SET_MAP if data else 0)
    body = (
        _header(family)
        + text(_SET_TABLE, table)
        + text(_SET_NAME, name)
        + be32(_SET_FLAGS, flags)
        + be32(_SET_KEY_TYPE, _type_of(key))
        + be32(_SET_KEY_LENGTH, sum(_TYPE_LENGTH[kind] for kind in key))
        + be32(_SET_ID, number)
    )
    if key == (TYPE_IFNAME,):
        body += attribute(_SET_USERDATA, _HOST_BYTE_ORDER)
    if data:
        body += be32(_SET_DATA_TYPE, _type_of(data))
        body += be32(_SET_DATA_LENGTH, sum(_TYPE_LENGTH[kind] for kind in data))
    return Message(_NEWSET, NLM_F_CREATE, body, f"making the nftables set {name}")


def element(key: bytes, data: bytes | None = None) -> bytes:
    """One element of a set or map."""
    body = nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))
    if data is not None:
        body += nested(_ELEMENT_DATA, attribute(_DATA_VALUE, data))
    return nested(_LIST_ELEMENT, body)


def range_elements(first: bytes, last: bytes, data: bytes | None = None) -> list[bytes]:
    """The two elements that stand for the range ``first`` to ``last`` inclusive; with ``data``
    those of a map."""
    after = (int.from_bytes(last, "big") + 1).to_bytes(len(last) + 1, "big")
    found = [element(first, data)]
    if not after[0]:
        found.append(
            nested(
                _LIST_ELEMENT,
                nested(_ELEMENT_KEY, attribute(_DATA_VALUE, after[1:])),
                be32(_ELEMENT_FLAGS, _ELEMENT_INTERVAL_END),
            )
        )
    return found


_ELEMENTS_A_MESSAGE = 400


def _elements(
    kind: int, flags: int, family: int, table: str, name: str, elements: Sequence[bytes], what: str
) -> list[Message]:
    # A nested attribute holds at most 64 KiB.
    return [
        Message(
            kind,
            flags,
            _header(family)
            + text(_ELEMENTS_TABLE, table)
            + text(_ELEMENTS_SET, name)
            + nested(_ELEMENTS_LIST, *elements[start : start + _ELEMENTS_A_MESSAGE]),
            f"{what} the nftables set {name}",
        )
        for start in range(0, len(elements), _ELEMENTS_A_MESSAGE)
    ]


def add_elements(family: int, table: str, name: str, elements: Sequence[bytes]) -> list[Message]:
    return _elements(_NEWSETELEM, NLM_F_CREATE, family, table, name, elements, "adding to")


def delete_elements(family: int, table: str, name: str, elements: Sequence[bytes]) -> list[Message]:
    return _elements(_DELSETELEM, 0, family, table, name, elements, "deleting from")


def interface_key(name: str) -> bytes:
    return name.encode("ascii").ljust(IFNAME_LENGTH, b"\0")


def commit(netfilter: Socket, messages: Sequence[Message]) -> None:
    """Apply all messages or none.  Raises :class:`OSError` for the first that is wrong.

    Another program's transaction may get in between (ERESTART is handled by the kernel); an
    interrupted call is not repeated by us.
    """
    begin = Message(
        _BATCH_BEGIN, 0, _header(socket.AF_UNSPEC, _SUBSYSTEM), "beginning an nftables transaction"
    )
    end = Message(_BATCH_END, 0, _header(socket.AF_UNSPEC, _SUBSYSTEM), "ending it")
    netfilter.transaction(begin, messages, end)


def open_socket(*, watch: bool = False) -> Socket:
    """A socket in the current network namespace; with ``watch`` it receives notifications."""
    return Socket(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,) if watch else ())


def deleted_table(received: Received) -> str:
    """The name in a notification that a table was deleted, or empty."""
    if received.kind != _DELTABLE:
        return ""
    return _name(received.payload, _TABLE_NAME)


def elements(netfilter: Socket, family: int, table: str, name: str) -> set[tuple[bytes, bytes]]:
    """The (key, data) pairs of a set or map."""
    request = _header(family) + text(_ELEMENTS_TABLE, table) + text(_ELEMENTS_SET, name)
    found: set[tuple[bytes, bytes]] = set()
    for received in netfilter.dump(_GETSETELEM, request, f"listing the nftables set {name}"):
        for kind, value in attributes(received.payload[4:]):
            if kind == _ELEMENTS_LIST:
                found |= parse_elements(value)
    return found


def parse_elements(packed: bytes) -> set[tuple[bytes, bytes]]:
    """The (key, data) pairs in a run of :func:`element`."""
    return {
        (_value(held.get(_ELEMENT_KEY)), _value(held.get(_ELEMENT_DATA)))
        for _, body in attributes(packed)
        for held in (dict(attributes(body)),)
    }


def _value(data: bytes | None) -> bytes:
    return dict(attributes(data)).get(_DATA_VALUE, b"") if data else b""


def table_exists(netfilter: Socket, family: int, table: str) -> bool:
    found = netfilter.dump(_GETTABLE, _header(family), "listing the nftables tables")
    return any(_name(received.payload, _TABLE_NAME) == table for received in found)


def new_chain(received: Received) -> str:
    """The name in a notification that a chain was made or changed, or empty."""
    if received.kind != _NEWCHAIN:
        return ""
    return _name(received.payload, _CHAIN_NAME)


def _name(payload: bytes, key: int) -> str:
    for kind, value in attributes(payload[4:]):
        if kind == key:
            return _string(value)
    return ""


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii", "replace")


def is_unsupported(error: OSError) -> bool:
    """Whether the kernel has no nf_tables at all."""
    return error.errno in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL)
