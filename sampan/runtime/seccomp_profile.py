"""Docker's default seccomp profile, by what it refuses.

Every call of the kernel's table is allowed but the ones named here: some need a capability (and
are allowed with it), some depend on their arguments, some are refused to everyone.  Calls newer
than the profile are answered with ENOSYS by the compiler, so that programs fall back.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sampan.runtime.syscall_numbers import TABLES

_EPERM, _ENOSYS = 1, 38

# Obsolete, dangerous without gain, or not confined by namespaces.
_NOBODY = """
    _sysctl add_key afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle
    io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl lock
    migrate_pages move_pages mpx nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname
    pivot_root prof profil putpmsg query_module readdir request_key security sgetmask sigaction
    signal sigpending sigsuspend ssetmask stty swapoff swapon sysfs tuxcall ulimit uselib
    userfaultfd ustat vm86 vm86old vserver
"""
# Newer than the profile.
_UNKNOWN = """
    getxattrat listmount listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr mseal
    open_tree_attr removexattrat setxattrat statmount
"""
_WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
        mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
        sethostname setns syslog umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
_BY_ARGUMENT = "clone personality socket"
# Linux, 32-bit emulation, UNAME26, both, and the query of the present value.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_VSOCK = 40
# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_CLONE_NAMESPACES = 0x7E020000


@cache
def default_profile() -> dict[str, Any]:
    """The profile in Docker's form: rules may depend on capabilities (``includes``,
    ``excludes``).  Shared by all callers, who must not change it."""
    conditional = {name for names in _WITH_CAPABILITY.values() for name in names.split()}
    refused = {*_NOBODY.split(), *_UNKNOWN.split(), *_BY_ARGUMENT.split(), *conditional}
    known = {name for table in TABLES.values() for name in table}
    rules: list[dict[str, Any]] = [_allow(sorted(known - refused))]
    rules.append(_allow(["socket"], _argument(0, "SCMP_CMP_NE", _AF_VSOCK)))
    for value in _PERSONALITIES:
        rules.append(_allow(["personality"], _argument(0, "SCMP_CMP_EQ", value)))
    for capability, names in _WITH_CAPABILITY.items():
        rules.append({**_allow(names.split()), "includes": {"caps": [capability]}})
    no_admin = {"excludes": {"caps": ["CAP_SYS_ADMIN"]}}
    no_namespaces = _argument(0, "SCMP_CMP_MASKED_EQ", _CLONE_NAMESPACES)
    rules.append({**_allow(["clone"], no_namespaces), **no_admin})
    # Its flags lie in memory, where no filter can look: callers fall back to clone.
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS, **no_admin})
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _EPERM, "syscalls": rules}


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _argument(index: int, operation: str, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": operation}
