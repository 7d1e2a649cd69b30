"""What runs in a container, and what it has changed: ``top`` and ``diff``."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import time
from pathlib import Path
from typing import Any

from sampan.engine import mountpoints
from sampan.engine.containers import Containers
from sampan.engine.launch import Places
from sampan.engine.roots import Roots
from sampan.engine.state import Container
from sampan.errors import Conflict, InvalidParameter, Unavailable
from sampan.image import layer
from sampan.runtime import cgroups
from sampan.store.snapshots import Snapshotter

TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
DEFAULT_ARGUMENTS = "-ef"
_KINDS = {"modified": 0, "added": 1, "deleted": 2}
_TICKS = os.sysconf("SC_CLK_TCK")


class Processes:
    """Looks into containers from outside."""

    def __init__(
        self, containers: Containers, snapshotter: Snapshotter, roots: Roots, places: Places
    ) -> None:
        self._containers = containers
        self._snapshotter = snapshotter
        self._roots = roots
        self._places = places

    async def top(
        self, container: Container, arguments: str = ""
    ) -> tuple[list[str], list[list[str]]]:
        """Titles and rows of the container's processes, with the host's process numbers.

        ``-ef`` (the default) is read from /proc; other arguments go to the host's ``ps``.
        Raises Conflict when the container does not run, InvalidParameter for bad arguments.
        """
        if container.keeper is None:
            raise Conflict(f"container {container.id} is not running")
        if container.record.state.status == "restarting":
            raise Conflict(
                f"Container {container.id} is restarting, wait until the container is running"
            )
        pids = await asyncio.to_thread(self.pids, container)
        if arguments.strip() in ("", DEFAULT_ARGUMENTS):
            found = TITLES, await asyncio.to_thread(_rows, pids)
        else:
            found = await _host_ps(arguments.split(), pids)
        self._containers.publish(container.record, "top")
        return found

    def group(self, container: Container) -> cgroups.Group:
        """The container's control group."""
        parent = container.record.host.cgroup_parent
        return cgroups.group(self._places.groups.path(container.id, parent))

    def pids(self, container: Container) -> list[int]:
        """Numbers of all its processes on the host."""
        return sorted(self.group(container).pids())

    async def changes(self, container: Container) -> list[dict[str, Any]] | None:
        """Docker's answer to ``diff``: Kind 0 modified, 1 added, 2 deleted; None for nothing."""
        return await asyncio.to_thread(self._changes, container) or None

    def _changes(self, container: Container) -> list[dict[str, Any]]:
        record = container.record
        upper = self._snapshotter.upper(record.id)
        if record.parent is None:
            found = list(layer.changes(upper, None, mountpoints.made(upper, None)))
        else:
            with self._roots.snapshot(record.parent) as below:
                found = list(layer.changes(upper, below, mountpoints.made(upper, below)))
        return [{"Path": change.path, "Kind": _KINDS[change.kind]} for change in found]


def _rows(pids: list[int]) -> list[list[str]]:
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    rows = []
    for pid in pids:
        try:
            rows.append(_row(pid, boot))
        except (FileNotFoundError, ProcessLookupError):
            # It has ended since the list was made.
            continue
    return rows


def _row(pid: int, boot: float) -> list[str]:
    directory = Path("/proc", str(pid))
    uid = directory.stat().st_uid
    # The name is in parentheses and may hold anything.
    name, fields = _split_stat((directory / "stat").read_text(errors="replace"))
    terminal, started = int(fields[4]), boot + int(fields[19]) / _TICKS
    seconds = (int(fields[11]) + int(fields[12])) / _TICKS
    age = max(time.time() - started, 0.001)
    command = (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    form = "%H:%M" if age < 86400 else "%b%d"
    return [
        _user(uid),
        str(pid),
        fields[1],
        str(min(99, int(100 * seconds / age))),
        time.strftime(form, time.localtime(started)),
        _terminal(terminal),
        time.strftime("%H:%M:%S", time.gmtime(seconds)),
        command.decode(errors="replace") or f"[{name}]",
    ]


def _split_stat(text: str) -> tuple[str, list[str]]:
    start, end = text.index("("), text.rindex(")")
    return text[start + 1 : end], text[end + 2 :].split()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(number: int) -> str:
    if not number:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor}" if 136 <= major <= 143 else f"tty{minor}"


async def _host_ps(arguments: list[str], pids: list[int]) -> tuple[list[str], list[list[str]]]:
    """The host's ``ps`` with these arguments, only the lines of these processes."""
    program = shutil.which("ps")
    if program is None:
        raise Unavailable(
            "ps_args other than -ef need the host's ps program, which is not installed"
        )
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise InvalidParameter(f"ps: {errors.decode(errors='replace').strip()}")
    lines = output.decode(errors="replace").splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidParameter("Couldn't find PID field in ps output")
    column, wanted = titles.index("PID"), {str(pid) for pid in pids}
    rows = (line.split(maxsplit=len(titles) - 1) for line in lines[1:])
    return titles, [row for row in rows if len(row) > column and row[column] in wanted]
