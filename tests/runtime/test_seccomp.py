"""The seccomp compiler, by interpreting its programs, and the default profile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.runtime.bpf_assembler import run
from sampan.runtime.seccomp import compile_profile
from sampan.runtime.seccomp_profile import default_profile
from sampan.runtime.spec import DEFAULT_CAPABILITIES
from sampan.runtime.syscall_numbers import AUDIT_I386, AUDIT_X86_64, TABLES

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
X86 = TABLES[AUDIT_X86_64]

pytestmark = pytest.mark.skipif("__import__('platform').machine() != 'x86_64'")


def ask(program: bytes, name: str, *arguments: int, arch: int = AUDIT_X86_64) -> int:
    full = [*arguments, *[0] * (6 - len(arguments))]
    return run(program, TABLES[arch][name], arch, full)


def default(*extra: str) -> bytes:
    return compile_profile(default_profile(), [*DEFAULT_CAPABILITIES, *extra])


@pytest.mark.parametrize("name", ["read", "execve", "openat2", "clone", "ptrace", "futex_waitv"])
@pytest.mark.parametrize("arch", [AUDIT_X86_64, AUDIT_I386])
def test_ordinary_calls_are_allowed(name: str, arch: int) -> None:
    assert ask(default(), name, arch=arch) == ALLOW


@pytest.mark.parametrize(
    "name",
    ["mount", "bpf", "keyctl", "add_key", "kexec_load", "io_uring_setup", "unshare", "reboot"],
)
def test_dangerous_calls_are_refused(name: str) -> None:
    assert ask(default(), name) == ERRNO | 1


def test_capabilities_open_calls() -> None:
    assert ask(default("CAP_SYS_ADMIN"), "mount") == ALLOW
    assert ask(default("CAP_SYS_TIME"), "settimeofday") == ALLOW
    assert ask(default("CAP_SYS_ADMIN"), "clone3") == ALLOW


def test_arguments() -> None:
    program = default()
    assert ask(program, "clone", 0x10000000) == ERRNO | 1
    assert ask(program, "clone", 0x11) == ALLOW
    assert ask(program, "clone3") == ERRNO | 38
    assert ask(program, "socket", 2) == ALLOW
    assert ask(program, "socket", 40) == ERRNO | 1
    assert ask(program, "personality", 0x20008) == ALLOW
    assert ask(program, "personality", 0xFFFFFFFF) == ALLOW
    assert ask(program, "personality", 0x40000) == ERRNO | 1


def test_newer_calls_do_not_exist() -> None:
    assert run(default(), 5000, AUDIT_X86_64, [0] * 6) == ERRNO | 38
    assert run(default(), 0x40000001, AUDIT_X86_64, [0] * 6) == ERRNO | 38
    assert ask(default(), "mseal") == ERRNO | 38


def test_other_architectures_are_refused() -> None:
    assert run(default(), 0, 0x12345678, [0] * 6) == ERRNO | 1


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ({"defaultAction": "SCMP_ACT_NONE"}, "unknown action"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be the default"),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
            },
            "listener",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["read"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_WHAT"}],
                    }
                ],
            },
            "unknown comparison",
        ),
    ],
)
def test_bad_profiles(profile: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        compile_profile(profile)


OPERATIONS = {
    "SCMP_CMP_EQ": lambda a, v, w: a == v,
    "SCMP_CMP_NE": lambda a, v, w: a != v,
    "SCMP_CMP_LT": lambda a, v, w: a < v,
    "SCMP_CMP_LE": lambda a, v, w: a <= v,
    "SCMP_CMP_GT": lambda a, v, w: a > v,
    "SCMP_CMP_GE": lambda a, v, w: a >= v,
    "SCMP_CMP_MASKED_EQ": lambda a, v, w: a & v == w,
}
WORD = st.one_of(
    st.integers(0, 3),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]),
)


@given(st.sampled_from(sorted(OPERATIONS)), WORD, WORD, WORD, st.integers(0, 5))
def test_comparisons_are_on_64_bits(
    operation: str, argument: int, value: int, second: int, index: int
) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 77,
                "args": [{"index": index, "value": value, "valueTwo": second, "op": operation}],
            }
        ],
    }
    arguments = [0] * 6
    arguments[index] = argument
    expected = ERRNO | 77 if OPERATIONS[operation](argument, value, second) else ALLOW
    assert ask(compile_profile(profile), "ioctl", *arguments) == expected


@given(st.sets(st.sampled_from(sorted(X86))), st.sampled_from(sorted(X86)))
def test_any_set_of_names(names: set[str], probe: str) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": sorted(names), "action": "SCMP_ACT_ALLOW"}] if names else [],
    }
    answer = ask(compile_profile(profile), probe)
    if probe in names:
        assert answer == ALLOW
    elif X86[probe] > max((X86[name] for name in names), default=-1):
        assert answer == ERRNO | 38
    else:
        assert answer == ERRNO | 1
