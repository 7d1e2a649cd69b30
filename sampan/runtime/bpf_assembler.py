"""Classic BPF by hand: the few instructions a seccomp filter needs, and a search tree.

A program is a list of instructions; jumps are relative, conditional ones at most 255 ahead.  All
pieces end in a return, so they are put together by placing one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

_LOAD, _JUMP, _RETURN = 0x20, 0x05, 0x06
_EQUAL, _GREATER, _GREATER_EQUAL = 0x15, 0x25, 0x35
_AND = 0x54
_FARTHEST = 255

NUMBER_OFFSET = 0
ARCH_OFFSET = 4
_ARGUMENTS_OFFSET = 16

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, constant)."""
Code = list[Instruction]


class Comparison(NamedTuple):
    """A test of one 64-bit argument; ``operation`` as libseccomp names it."""

    argument: int
    operation: str
    value: int
    second: int = 0


def returns(value: int) -> Code:
    return [(_RETURN, 0, 0, value)]


def load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def if_equal(value: int, then: Code, otherwise: Code) -> Code:
    return _branch(_EQUAL, value, then, otherwise)


def if_at_least(value: int, then: Code, otherwise: Code) -> Code:
    return _branch(_GREATER_EQUAL, value, then, otherwise)


def _branch(test: int, value: int, then: Code, otherwise: Code) -> Code:
    if len(otherwise) <= _FARTHEST:
        return [(test, len(otherwise), 0, value), *otherwise, *then]
    return [(test, 0, 1, value), (_JUMP, 0, 0, len(otherwise)), *otherwise, *then]


def search(ranges: Sequence[tuple[int, Code]]) -> Code:
    """Choose by the loaded number: each (first, code) holds from ``first`` to the next."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return if_at_least(ranges[middle][0], search(ranges[middle:]), search(ranges[:middle]))


def if_all(comparisons: Sequence[Comparison], then: Code, otherwise: Code) -> Code:
    """``then`` if every comparison holds."""
    code = then
    for comparison in reversed(comparisons):
        code = _compare(comparison, code, otherwise)
    return code


def _compare(test: Comparison, then: Code, otherwise: Code) -> Code:
    low = load(_ARGUMENTS_OFFSET + 8 * test.argument)
    high = load(_ARGUMENTS_OFFSET + 8 * test.argument + 4)
    upper, lower = test.value >> 32 & 0xFFFFFFFF, test.value & 0xFFFFFFFF
    match test.operation:
        case "SCMP_CMP_EQ":
            return [high, *if_equal(upper, [low, *if_equal(lower, then, otherwise)], otherwise)]
        case "SCMP_CMP_NE":
            return _compare(test._replace(operation="SCMP_CMP_EQ"), otherwise, then)
        case "SCMP_CMP_GT" | "SCMP_CMP_GE":
            last = _GREATER if test.operation == "SCMP_CMP_GT" else _GREATER_EQUAL
            same = [low, *_branch(last, lower, then, otherwise)]
            return [high, *_branch(_GREATER, upper, then, if_equal(upper, same, otherwise))]
        case "SCMP_CMP_LT":
            return _compare(test._replace(operation="SCMP_CMP_GE"), otherwise, then)
        case "SCMP_CMP_LE":
            return _compare(test._replace(operation="SCMP_CMP_GT"), otherwise, then)
        case "SCMP_CMP_MASKED_EQ":
            wanted_upper, wanted_lower = test.second >> 32 & 0xFFFFFFFF, test.second & 0xFFFFFFFF
            second = [low, (_AND, 0, 0, lower), *if_equal(wanted_lower, then, otherwise)]
            return [high, (_AND, 0, 0, upper), *if_equal(wanted_upper, second, otherwise)]
        case _:
            raise ValueError(f"seccomp: unknown comparison {test.operation!r}")


def assemble(code: Code) -> bytes:
    numbers = [number for instruction in code for number in instruction]
    return struct.pack("<" + "HBBI" * len(code), *numbers)


def run(program: bytes, number: int, arch: int, arguments: Sequence[int]) -> int:
    """Interpret a program, for tests and for explaining a filter: the value that it returns."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *arguments)
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x05:
                at += constant
            case 0x06:
                return int(constant)
            case 0x15:
                at += if_true if accumulator == constant else if_false
            case 0x25:
                at += if_true if accumulator > constant else if_false
            case 0x35:
                at += if_true if accumulator >= constant else if_false
            case 0x54:
                accumulator &= constant
            case _:
                raise ValueError(f"unknown instruction {operation:#x}")
