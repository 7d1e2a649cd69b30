"""Load eBPF programs of the cgroup-device type and attach them to groups."""

from __future__ import annotations

import ctypes
import errno

from sampan.linux.syscalls import by_machine, error, numbered

_PROG_LOAD = 5
_PROG_ATTACH = 8
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_LOG_SIZE = 65536


class _Load(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
    )


class _Attach(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("replace_bpf_fd", ctypes.c_uint32),
    )


_bpf = numbered(by_machine(321, 280), ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


def load_cgroup_device(program: bytes) -> int:
    """Load a program; the error carries the verifier's explanation."""
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _Load(
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
    )
    size = ctypes.sizeof(attributes)
    fd = _bpf(_PROG_LOAD, ctypes.byref(attributes), size)
    if fd >= 0:
        return fd
    failure = error("load the device program")
    if failure.errno in (errno.EINVAL, errno.EACCES):
        log = ctypes.create_string_buffer(_LOG_SIZE)
        attributes.log_level = 1
        attributes.log_size = _LOG_SIZE
        attributes.log_buf = ctypes.addressof(log)
        fd = _bpf(_PROG_LOAD, ctypes.byref(attributes), size)
        if fd >= 0:
            return fd
        text = log.value.decode(errors="replace").strip()
        return _refuse(failure, text)
    raise failure


def _refuse(failure: OSError, text: str) -> int:
    raise OSError(failure.errno, f"{failure.strerror} ({text})" if text else failure.strerror)


def attach_cgroup_device(program_fd: int, group_fd: int) -> None:
    attributes = _Attach(group_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, 0)
    if _bpf(_PROG_ATTACH, ctypes.byref(attributes), ctypes.sizeof(attributes)) < 0:
        raise error("attach the device program")
