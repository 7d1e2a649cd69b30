"""Compile seccomp profiles, in the runtime specification's form or Docker's, to BPF.

The program checks the architecture, then finds the system call by binary search over ranges of
numbers with the same answer, then compares arguments where a rule has any.  Compiled programs are
kept, so that a profile costs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sampan.linux.seccomp import MAX_INSTRUCTIONS
from sampan.linux.syscalls import MACHINE
from sampan.runtime.bpf_assembler import (
    ARCH_OFFSET,
    NUMBER_OFFSET,
    Code,
    Comparison,
    assemble,
    if_all,
    if_at_least,
    if_equal,
    load,
    returns,
    search,
)
from sampan.runtime.syscall_numbers import AUDIT_AARCH64, AUDIT_I386, AUDIT_X86_64, TABLES

_EPERM, _ENOSYS = 1, 38
_X32_BIT = 0x40000000
_ALLOW, _LOG, _TRACE = 0x7FFF0000, 0x7FFC0000, 0x7FF00000
_NOTIFY = 0x7FC00000
_ERRNO, _TRAP, _KILL_THREAD, _KILL_PROCESS = 0x00050000, 0x00030000, 0, 0x80000000

_ACTIONS = {
    "SCMP_ACT_ALLOW": _ALLOW,
    "SCMP_ACT_LOG": _LOG,
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": _KILL_PROCESS,
    "SCMP_ACT_TRAP": _TRAP,
}
_NATIVE = {
    "x86_64": (AUDIT_X86_64, AUDIT_I386),
    "aarch64": (AUDIT_AARCH64,),
}
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": AUDIT_X86_64,
    "SCMP_ARCH_X86": AUDIT_I386,
    "SCMP_ARCH_AARCH64": AUDIT_AARCH64,
}
# The runtime specification's fields of a profile and of its rules.
_KEPT = ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
_KEPT_OF_RULES = ("names", "action", "errnoRet", "args")
# Docker's names of architectures in ``includes`` and ``excludes``.
_DOCKER_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


class Rule(NamedTuple):
    """What a system call of these names (and arguments) is answered with."""

    names: tuple[str, ...]
    answer: int
    comparisons: tuple[Comparison, ...]


def notifies(profile: dict[str, Any]) -> bool:
    """Whether a listener is notified of calls."""
    return any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or ())


def compile_profile(
    profile: dict[str, Any], capabilities: Iterable[str] = (), *, listener: bool = False
) -> bytes:
    """The program of a profile for a process with these (bounding) capabilities.

    ``listener`` tells that there is one for SCMP_ACT_NOTIFY.  Programs are kept.  Raises ValueError for unknown actions, comparisons and architectures, and for a program that
    the kernel would refuse for its length.
    """
    # Only who starts many containers has it, and needs it; it takes long to import.
    import msgspec

    _check_listener(profile, listener)
    return _compile(msgspec.json.encode(profile), frozenset(capabilities), MACHINE)


def compile_once(
    profile: dict[str, Any], capabilities: Iterable[str] = (), *, listener: bool = False
) -> bytes:
    """As :func:`compile_profile` for a process that compiles just one."""
    _check_listener(profile, listener)
    return _program(profile, frozenset(capabilities), MACHINE)


def _check_listener(profile: dict[str, Any], listener: bool) -> None:
    if notifies(profile) and not listener:
        raise ValueError("seccomp: SCMP_ACT_NOTIFY needs a listener, which there is not here")
    if profile.get("defaultAction") == "SCMP_ACT_NOTIFY":
        raise ValueError("seccomp: SCMP_ACT_NOTIFY cannot be the default action")


def plain_profile(profile: dict[str, Any], capabilities: Iterable[str] = ()) -> dict[str, Any]:
    """The profile in the runtime specification's form: Docker's conditions are decided for a
    process with these (bounding) capabilities.  Raises ValueError."""
    if MACHINE not in _NATIVE:
        raise ValueError(f"seccomp filters are not made for the architecture {MACHINE}")
    held = frozenset(capabilities)
    named = {number: name for name, number in _ARCHITECTURES.items()}
    result = {name: profile[name] for name in _KEPT if profile.get(name)}
    result["architectures"] = [named[arch] for arch in _architectures(profile, MACHINE)]
    result["syscalls"] = [
        {name: entry[name] for name in _KEPT_OF_RULES if entry.get(name) is not None}
        for entry in profile.get("syscalls") or ()
        if _applies(entry, held, MACHINE)
    ]
    return result


@lru_cache(maxsize=64)
def _compile(encoded: bytes, capabilities: frozenset[str], machine: str) -> bytes:
    import msgspec

    return _program(msgspec.json.decode(encoded), capabilities, machine)


def _program(profile: dict[str, Any], capabilities: frozenset[str], machine: str) -> bytes:
    if machine not in _NATIVE:
        raise ValueError(f"seccomp filters are not made for the architecture {machine}")
    default = _answer(profile.get("defaultAction"), profile.get("defaultErrnoRet"))
    rules = [
        _rule(entry)
        for entry in profile.get("syscalls") or ()
        if _applies(entry, capabilities, machine)
    ]
    code = returns(default)
    for arch in reversed(_architectures(profile, machine)):
        code = if_equal(arch, _for_architecture(arch, rules, default), code)
    code = [load(ARCH_OFFSET), *code]
    if len(code) > MAX_INSTRUCTIONS:
        raise ValueError(f"the seccomp profile is too large: {len(code)} instructions")
    return assemble(code)


def _architectures(profile: dict[str, Any], machine: str) -> list[int]:
    """The architectures to filter: the machine's own and those that the profile names with it.

    An architecture that this machine cannot run needs no code.  Docker's form names none but maps
    the machine's to its companions.
    """
    native = _NATIVE[machine]
    wanted = profile.get("architectures")
    if not wanted:
        return list(native)
    named = {_ARCHITECTURES[name] for name in wanted if name in _ARCHITECTURES}
    return [arch for arch in native if arch in named or arch == native[0]]


def _applies(entry: dict[str, Any], capabilities: frozenset[str], machine: str) -> bool:
    """Docker's conditions of a rule."""
    arch = _DOCKER_ARCH[machine]
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if excludes.get("arches") and arch in excludes["arches"]:
        return False
    if not all(name in capabilities for name in includes.get("caps") or ()):
        return False
    # minKernel: every kernel that this engine runs on is newer than any in use (4.8).
    return not any(name in capabilities for name in excludes.get("caps") or ())


def _rule(entry: dict[str, Any]) -> Rule:
    names = entry.get("names") or ([entry["name"]] if entry.get("name") else [])
    if not names:
        raise ValueError("seccomp: a rule names no system call")
    comparisons = []
    for argument in entry.get("args") or ():
        index = int(argument["index"])
        if not 0 <= index <= 5:
            raise ValueError(f"seccomp: a system call has no argument {index}")
        comparisons.append(
            Comparison(
                index,
                str(argument["op"]),
                int(argument.get("value", 0)),
                int(argument.get("valueTwo", 0)),
            )
        )
    return Rule(
        tuple(names), _answer(entry.get("action"), entry.get("errnoRet")), tuple(comparisons)
    )


def _answer(action: str | None, errno_return: int | None) -> int:
    if action == "SCMP_ACT_ERRNO":
        return _ERRNO | (_EPERM if errno_return is None else errno_return & 0xFFF)
    if action == "SCMP_ACT_TRACE":
        return _TRACE | (_EPERM if errno_return is None else errno_return & 0xFFFF)
    if action == "SCMP_ACT_NOTIFY":
        return _NOTIFY
    if action not in _ACTIONS:
        raise ValueError(f"seccomp: unknown action {action!r}")
    return _ACTIONS[action]


def _for_architecture(arch: int, rules: Sequence[Rule], default: int) -> Code:
    table = TABLES[arch]
    by_number: dict[int, tuple[int, ...]] = {}
    for place, rule in enumerate(rules):
        for name in rule.names:
            number = table.get(name)
            if number is not None:
                by_number[number] = (*by_number.get(number, ()), place)
    # Most calls have the same rule alone.
    decided = {
        places: _decide([rules[place] for place in places], default)
        for places in set(by_number.values())
    }
    ranges: list[tuple[int, Code]] = []

    def begin(number: int, code: Code) -> None:
        if not ranges or ranges[-1][1] != code:
            ranges.append((number, code))

    expected = 0
    otherwise = returns(default)
    for number in sorted(by_number):
        if number > expected:
            begin(expected, otherwise)
        begin(number, decided[by_number[number]])
        expected = number + 1
    # A call newer than all that the profile knows is one that this kernel "does not have", so
    # that programs fall back to an older one.
    newer = default if default in (_ALLOW, _LOG) else _ERRNO | _ENOSYS
    begin(expected, returns(newer))
    code = search(ranges)
    if arch == AUDIT_X86_64:
        # The x32 calls come with the same architecture and a bit set: there are none here.
        code = if_at_least(_X32_BIT, returns(newer), code)
    return [load(NUMBER_OFFSET), *code]


def _decide(rules: Sequence[Rule], default: int) -> Code:
    """The first rule whose arguments match decides; one without arguments always does."""
    code = returns(default)
    ordered = sorted(rules, key=lambda rule: not rule.comparisons)
    for rule in reversed(ordered):
        if rule.comparisons:
            code = if_all(rule.comparisons, returns(rule.answer), code)
        else:
            code = returns(rule.answer)
    return code
