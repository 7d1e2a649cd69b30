"""The iptables programs of the host, where it has them: reading rules and changing them.

Only chains that bear our name are written; in chains of others at most a jump to one of ours.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence

_SECONDS = 10
_PROGRAMS = {4: "iptables", 6: "ip6tables"}
VERSIONS = (4, 6)


def available() -> bool:
    return shutil.which("iptables") is not None


def listing(version: int, table: str) -> list[str]:
    """The chains and rules of a table as ``iptables -S`` prints them; empty if the host has no
    such table."""
    program = shutil.which(_PROGRAMS[version])
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "-w", "5", "-t", table, "-S"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def restore(version: int, tables: Mapping[str, Sequence[str]]) -> None:
    """Apply lines of ``iptables-restore``, each table as a whole or not at all, and let all else be.

    Raises :class:`OSError` with the program's words.
    """
    program = shutil.which(_PROGRAMS[version] + "-restore")
    if program is None:
        raise OSError(f"{_PROGRAMS[version]}-restore is not installed")
    text = "".join(
        "\n".join([f"*{table}", *lines, "COMMIT", ""]) for table, lines in tables.items() if lines
    )
    if not text:
        return
    try:
        done = subprocess.run(
            [program, "-w", "5", "--noflush"],
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{program} does not answer") from error
    if done.returncode:
        raise OSError(f"{program} failed: {done.stderr.strip()}")
