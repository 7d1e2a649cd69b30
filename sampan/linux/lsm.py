"""Which security modules this host has."""

from __future__ import annotations

from sampan.linux import files


def has_apparmor() -> bool:
    """Whether AppArmor confines processes on this host."""
    try:
        return files.read("/sys/module/apparmor/parameters/enabled")[:1] == b"Y"
    except OSError:
        return False


def has_selinux() -> bool:
    """Whether SELinux labels processes and files on this host."""
    try:
        return b"\tselinuxfs\n" in files.read("/proc/filesystems")
    except OSError:
        return False
