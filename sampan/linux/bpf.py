"""Load eBPF programs: for the devices of a control group, and for what arrives at a link.

Programs are bytes of instructions, which :func:`instruction` makes; a map is a descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from sampan.linux.syscalls import by_machine, error, numbered

_MAP_CREATE = 0
_MAP_UPDATE = 2
_MAP_DELETE = 3
_PROG_LOAD = 5
_PROG_ATTACH = 8
_TYPE_CLASSIFIER = 3
_TYPE_CGROUP_DEVICE = 15
_MAP_OF_LINKS = 25
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


class _Element(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
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


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction (``struct bpf_insn``): opcode, registers, jump or memory offset, constant."""
    return struct.pack("<BBhi", code, to | source << 4, offset, value)


def load_cgroup_device(program: bytes) -> int:
    """Load a program; the error carries the verifier's explanation."""
    return _load(_TYPE_CGROUP_DEVICE, program, "load the device program")


def load_classifier(program: bytes) -> int:
    """Load a program for the frames that arrive at a link; errors as above."""
    return _load(_TYPE_CLASSIFIER, program, "load the program for a link")


def _load(kind: int, program: bytes, what: str) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _Load(
        kind,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
    )
    size = ctypes.sizeof(attributes)
    fd = _bpf(_PROG_LOAD, ctypes.byref(attributes), size)
    if fd >= 0:
        return fd
    failure = error(what)
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


def create_link_map(size: int) -> int:
    """A map of four-byte keys to links of the caller's network namespace.  The kernel removes an
    entry together with its link.  Linux 5.4."""
    attributes = (ctypes.c_uint32 * 5)(_MAP_OF_LINKS, 4, 4, size, 0)
    fd = _bpf(_MAP_CREATE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd < 0:
        raise error("make a map of links")
    return fd


def put_link(map_fd: int, key: bytes, index: int) -> None:
    """Let ``key`` stand for the link with this index.  OSError E2BIG when the map is full."""
    _change(_MAP_UPDATE, map_fd, key, index)


def remove_link(map_fd: int, key: bytes) -> None:
    """Forget a key.  OSError ENOENT when it is not there."""
    _change(_MAP_DELETE, map_fd, key, 0)


def _change(command: int, map_fd: int, key: bytes, index: int) -> None:
    key_buffer = ctypes.create_string_buffer(key, 4)
    value = ctypes.c_uint32(index)
    attributes = _Element(map_fd, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
    if _bpf(command, ctypes.byref(attributes), ctypes.sizeof(attributes)) < 0:
        raise error("change a map of links")
