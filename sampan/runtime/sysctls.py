"""Which kernel settings a container may have: those of its own namespaces, named plainly."""

from __future__ import annotations

from typing import Any

_IPC = frozenset(
    {
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/msg_next_id",
        "kernel/sem",
        "kernel/sem_next_id",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_next_id",
        "kernel/shm_rmid_forced",
    }
)
# Interface names come between slashes as they are: they may hold dots.
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@:.*+-")


def path_of(name: str) -> str:
    """The setting's path below ``/proc/sys``: dots separate unless there is a slash.

    Raises ValueError for a name that is none, or leads elsewhere.
    """
    path = name if "/" in name else name.replace(".", "/")
    parts = path.split("/")
    named = all(_LETTERS.issuperset(part) and part not in ("", ".", "..") for part in parts)
    if len(parts) < 2 or not named:
        raise ValueError(f"sysctl {name!r} is not the name of a kernel setting")
    return path


def check(spec: dict[str, Any]) -> None:
    """Raises ValueError for a setting that is not of a namespace which the container has for
    itself (or shares with another one), and for a value of several lines."""
    linux = spec.get("linux") or {}
    kinds = {entry.get("type") for entry in linux.get("namespaces") or ()}
    for name, value in (linux.get("sysctl") or {}).items():
        path = path_of(str(name))
        if "\n" in str(value) or "\0" in str(value):
            raise ValueError(f"sysctl {name}: the value must be one line")
        if path.startswith("net/"):
            needed = "network"
        elif path in _IPC or path.startswith("fs/mqueue/"):
            needed = "ipc"
        elif path == "kernel/domainname":
            needed = "uts"
        else:
            raise ValueError(f"sysctl {name!r} is not in a separate kernel namespace")
        if needed not in kinds:
            raise ValueError(f"sysctl {name!r} is not allowed in the host's {needed} namespace")
