"""Device rules of version 2: an eBPF program attached to the group, assembled here.

The kernel calls it with ``struct bpf_cgroup_dev_ctx`` {access_type, major, minor}: the access
(1 mknod, 2 read, 4 write) in the upper half of the first word, the type (1 block, 2 character) in
the lower.  Later rules win, so the program tests them from last to first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

from sampan.linux import bpf

_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL_ACCESS = 7
_TYPES = {"b": 1, "c": 2, "u": 2}

# Opcodes of eBPF that are used here.
_LOAD_WORD, _MOVE, _MOVE_REGISTER = 0x61, 0xB7, 0xBF
_AND, _AND_REGISTER, _SHIFT_RIGHT = 0x57, 0x5F, 0x77
_JUMP_NOT_EQUAL, _JUMP_NOT_EQUAL_REGISTER, _EXIT = 0x55, 0x5D, 0x95


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, to | source << 4, offset, value)


def compile_rules(rules: Sequence[dict[str, Any]]) -> bytes:
    """The program: returns 1 to allow.  No rule matching means denied.

    Raises ValueError for an unknown type or access.
    """
    program = [
        _instruction(_LOAD_WORD, 2, 1, 0),  # r2 = access << 16 | type
        _instruction(_MOVE_REGISTER, 3, 2),
        _instruction(_AND, 2, value=0xFFFF),  # r2 = type
        _instruction(_SHIFT_RIGHT, 3, value=16),  # r3 = access
        _instruction(_LOAD_WORD, 4, 1, 4),  # r4 = major
        _instruction(_LOAD_WORD, 5, 1, 8),  # r5 = minor
    ]
    for rule in reversed(rules):
        block = _rule(rule)
        program += block
        if len(block) == 2:
            return b"".join(program)  # it matches everything: earlier rules are never asked
    program += _verdict(False)
    return b"".join(program)


def _verdict(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, 0, value=int(allow)), _instruction(_EXIT)]


def _rule(rule: dict[str, Any]) -> list[bytes]:
    kind = rule.get("type") or "a"
    if kind not in ("a", *_TYPES):
        raise ValueError(f"device rule: unknown type {kind!r}")
    access = 0
    for letter in rule.get("access") or "rwm":
        if letter not in _ACCESS:
            raise ValueError(f"device rule: unknown access {letter!r}")
        access |= _ACCESS[letter]
    tests: list[tuple[int, int, int]] = []
    if kind != "a":
        tests.append((_JUMP_NOT_EQUAL, 2, _TYPES[kind]))
    for register, name in ((4, "major"), (5, "minor")):
        number = rule.get(name)
        if number is not None and number >= 0:
            tests.append((_JUMP_NOT_EQUAL, register, number))
    narrow = access != _ALL_ACCESS
    body = _verdict(bool(rule.get("allow")))
    checks: list[bytes] = []
    remaining = len(tests) + (3 if narrow else 0) + len(body)
    for code, register, value in tests:
        remaining -= 1
        checks.append(_instruction(code, register, 0, remaining, value))
    if narrow:
        # An allowing rule must cover the whole request; a denying one any part of it is hard to
        # say in one test, so it denies what it covers entirely, as runc's program does.
        checks.append(_instruction(_MOVE_REGISTER, 1, 3))
        checks.append(_instruction(_AND, 1, value=access))
        checks.append(_instruction(_JUMP_NOT_EQUAL_REGISTER, 1, 3, len(body)))
    return checks + body


def attach(directory: str, rules: Sequence[dict[str, Any]]) -> None:
    """Put the rules on the group.  Raises OSError if the kernel refuses the program."""
    program = bpf.load_cgroup_device(compile_rules(rules))
    try:
        group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            bpf.attach_cgroup_device(program, group)
        finally:
            os.close(group)
    finally:
        os.close(program)
