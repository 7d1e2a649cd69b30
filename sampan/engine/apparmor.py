"""Profiles of AppArmor: the default one, and which one a container gets.

The default profile denies what Docker's denies: mounting, writing to ``/proc`` outside of processes
and of ``kernel/shm*``, writing to ``/sys`` outside of ``fs/cgroup``, reading firmware tables, kernel
memory and the energy counters, tracing what is not confined by it.  It stays in the kernel until the
host is booted again, and so is loaded once.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from sampan.engine.types import HostConfig
from sampan.linux import lsm

DEFAULT = "sampan-default"
UNCONFINED = "unconfined"
_LOADED = Path("/sys/kernel/security/apparmor/profiles")
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 120.0

log = logging.getLogger(__name__)


class Profiles(NamedTuple):
    """``default`` is the profile of containers that ask for none, empty if there is none."""

    default: str = ""

    def of(self, host: HostConfig) -> str:
        """The profile that a container's processes get; empty where there is no AppArmor."""
        if not lsm.has_apparmor():
            return ""
        # Without a default profile nothing is asked of the kernel: this host may be a container.
        found = UNCONFINED if host.privileged and self.default else self.default
        for option in host.security_opt or []:
            for separator in "=:":
                name, found_separator, value = option.partition(separator)
                if name == "apparmor" and found_separator:
                    found = value
        return found


NONE = Profiles()


def load() -> Profiles:
    """Load the default profile if this host has AppArmor, its parser, and the profile not yet.

    Blocks for as long as the parser takes.  What goes wrong is logged; there is no default then.
    """
    if not lsm.has_apparmor():
        return NONE
    if _is_loaded():
        return Profiles(DEFAULT)
    parser = shutil.which("apparmor_parser", path=_PATH)
    if parser is None:
        log.warning(
            "AppArmor is on, but there is no apparmor_parser (package apparmor): "
            "containers get no default profile"
        )
        return NONE
    try:
        done = subprocess.run(
            [parser, "--replace", "--skip-cache"],
            input=text(_own_label()).encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        log.error("the AppArmor profile %s could not be loaded: %s", DEFAULT, failure)
        return NONE
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        log.error("the AppArmor profile %s could not be loaded: %s", DEFAULT, words)
        return NONE
    return Profiles(DEFAULT)


def _is_loaded() -> bool:
    try:
        lines = _LOADED.read_text().splitlines()
    except OSError:
        return False
    return any(line.split(" (")[0] == DEFAULT for line in lines)


def _own_label() -> str:
    """The profile that this daemon runs under: it and its children signal containers."""
    try:
        label = Path("/proc/self/attr/current").read_text().strip("\0\n ")
    except OSError:
        return UNCONFINED
    return label.split(" (")[0] or UNCONFINED


def text(daemon: str) -> str:
    """The default profile, for a daemon that runs under that profile."""
    return f"""
@{{PROC}} = /proc/
profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  capability,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer="{daemon}",
  signal (send, receive) peer={DEFAULT},
  ptrace (trace, read, tracedby, readby) peer={DEFAULT},

  deny mount,

  # Of /proc only what belongs to processes, and kernel/shm*, is written.
  deny @{{PROC}}* w,
  deny @{{PROC}}[^1-9s]*/** w,
  deny @{{PROC}}s[^ey]*/** w,
  deny @{{PROC}}sysvipc/** w,
  deny @{{PROC}}sys/[^k]** w,
  deny @{{PROC}}sys/kernel/{{?,??,[^s]**,s[^h]**,sh[^m]**}} w,
  deny @{{PROC}}{{kcore,sysrq-trigger}} rwklx,

  # Of /sys only fs/cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""
