"""Programs on what arrives at a link: rtnetlink messages for the ``clsact`` queueing discipline.

Formats are those of ``linux/rtnetlink.h`` and ``linux/pkt_cls.h``.  The filter has a priority and a
handle that no program is likely to use, and is replaced by adding it again.  It dies with its link.
"""

from __future__ import annotations

import errno
import socket
import struct

from sampan.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    nested,
    text,
    u32,
)

_RTM_NEWQDISC = 36
_RTM_NEWTFILTER = 44
_RTM_DELTFILTER = 45
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_BPF_FLAG_ACT_DIRECT = 1
_CLSACT_HANDLE = 0xFFFF0000
_CLSACT_PARENT = 0xFFFFFFF1
_INGRESS = 0xFFFFFFF2
_ETH_P_ALL = 3

# After the filters of others, which the kernel numbers downwards from 49152.
_PRIORITY = 0xE000
_HANDLE = 0x5A

_TCMSG = struct.Struct("=BxxxiIII")
_INFO = _PRIORITY << 16 | socket.htons(_ETH_P_ALL)


def prepare(index: int, name: str) -> Message:
    """Give the link a place for filters, if it has none (and is still there)."""
    return Message(
        _RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_EXCL,
        _TCMSG.pack(socket.AF_UNSPEC, index, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        + text(_TCA_KIND, "clsact"),
        f"preparing {name} for a program",
        (errno.EEXIST, errno.ENODEV),
    )


def attach(index: int, name: str, program_fd: int, label: str) -> Message:
    """Run the program on every frame that arrives at the link, in the place of an earlier one.
    ``label`` is what ``tc filter show`` calls it."""
    options = nested(
        _TCA_OPTIONS,
        u32(_TCA_BPF_FD, program_fd),
        text(_TCA_BPF_NAME, label),
        u32(_TCA_BPF_FLAGS, _BPF_FLAG_ACT_DIRECT),
    )
    return Message(
        _RTM_NEWTFILTER,
        NLM_F_CREATE | NLM_F_REPLACE,
        _filter(index) + text(_TCA_KIND, "bpf") + options,
        f"attaching a program to {name}",
        (errno.ENODEV,),
    )


def detach(index: int, name: str) -> Message:
    """Take the program off, if there is one."""
    return Message(
        _RTM_DELTFILTER,
        0,
        _filter(index) + text(_TCA_KIND, "bpf"),
        f"detaching the program of {name}",
        (errno.ENOENT, errno.EINVAL, errno.ENODEV),
    )


def _filter(index: int) -> bytes:
    return _TCMSG.pack(socket.AF_UNSPEC, index, _HANDLE, _INGRESS, _INFO)
