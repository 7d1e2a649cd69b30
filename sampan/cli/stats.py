"""``stats``: what containers use, once or as a moving table."""

from __future__ import annotations

import sys

from sampan import wirejson
from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.ps import FORMAT_HELP
from sampan.cli.rows import Kind, Row
from sampan.cli.units import binary_size, human_size
from sampan.client.http import quote
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session
    from sampan.client.http import Response


def _cpu(stats: dict[str, Any]) -> float:
    now, before = stats.get("cpu_stats") or {}, stats.get("precpu_stats") or {}
    used = _total(now) - _total(before)
    system = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    online = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or [])
    return used / system * online * 100 if used > 0 and system > 0 else 0.0


def _total(cpu: dict[str, Any]) -> int:
    return int((cpu.get("cpu_usage") or {}).get("total_usage") or 0)


def _memory(stats: dict[str, Any]) -> tuple[int, int]:
    memory = stats.get("memory_stats") or {}
    usage = int(memory.get("usage") or 0)
    details = memory.get("stats") or {}
    # The page cache that would be given up at once is not counted.
    idle = int(details.get("total_inactive_file") or details.get("inactive_file") or 0)
    return (usage - idle if idle < usage else usage), int(memory.get("limit") or 0)


def _network(stats: dict[str, Any]) -> tuple[int, int]:
    found = (stats.get("networks") or {}).values()
    return sum(one["rx_bytes"] for one in found), sum(one["tx_bytes"] for one in found)


def _disk(stats: dict[str, Any]) -> tuple[int, int]:
    entries = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read = sum(one["value"] for one in entries if one["op"].lower() == "read")
    written = sum(one["value"] for one in entries if one["op"].lower() == "write")
    return read, written


def measured(container: str, stats: dict[str, Any]) -> dict[str, Any]:
    """One reading, as the table shows it."""
    used, limit = _memory(stats)
    received, sent = _network(stats)
    read, written = _disk(stats)
    return {
        "Container": container,
        "ID": str(stats.get("id") or ""),
        "Name": str(stats.get("name") or "").removeprefix("/"),
        "CPUPerc": f"{_cpu(stats):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human_size(received, 3)} / {human_size(sent, 3)}",
        "BlockIO": f"{human_size(read, 3)} / {human_size(written, 3)}",
        "PIDs": str((stats.get("pids_stats") or {}).get("current") or 0),
    }


def nothing(container: str, name: str) -> dict[str, Any]:
    """The line of a container of which no reading has come yet."""
    dashes = dict.fromkeys(("CPUPerc", "MemPerc", "PIDs"), "--")
    pairs = dict.fromkeys(("MemUsage", "NetIO", "BlockIO"), "-- / --")
    return {"Container": container, "ID": container, "Name": name or "--", **dashes, **pairs}


def _field(name: str) -> Any:
    return lambda row: row.raw[name]


def _id(row: Row) -> str:
    return str(row.raw["ID"])[:12] if row.truncate else str(row.raw["ID"])


STATS = Kind(
    "*container.statsContext",
    {
        "Container": ("CONTAINER", _field("Container")),
        "ID": ("CONTAINER ID", _id),
        "Name": ("NAME", _field("Name")),
        "CPUPerc": ("CPU %", _field("CPUPerc")),
        "MemUsage": ("MEM USAGE / LIMIT", _field("MemUsage")),
        "MemPerc": ("MEM %", _field("MemPerc")),
        "NetIO": ("NET I/O", _field("NetIO")),
        "BlockIO": ("BLOCK I/O", _field("BlockIO")),
        "PIDs": ("PIDS", _field("PIDs")),
    },
)
DEFAULT = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")


class _Watched:
    """One container's stream of readings."""

    def __init__(self, session: Session, name: str, stream: bool) -> None:
        from sampan.client.api import Api

        self._api = Api(session.api.host)
        self.name = name
        query: dict[str, object] = {"stream": "true" if stream else "false"}
        self.response: Response = self._api.open("GET", f"/containers/{quote(name)}/stats", query)
        self._chunks = self.response.chunks()
        self._text = b""
        self.latest: dict[str, Any] = nothing(name, "")

    def take(self) -> bool:
        """Read what has come; False when the stream has ended."""
        for chunk in self._chunks:
            self._text += chunk
            if not chunk.rstrip().endswith(b"}"):
                continue
            try:
                last = self._text.strip().split(b"\n")[-1]
                self.latest = measured(self.name, wirejson.loads(last))
            except ValueError:
                continue
            self._text = b""
            return True
        return False


def stats(session: Session, options: Options, arguments: list[str]) -> int:
    """Print the usage of containers (default: of all that run)."""
    stream = not options["no-stream"]
    names = arguments
    if not names:
        found = session.api.get("/containers/json", {"all": options["all"]})
        names = [container["Id"][:12] for container in found]
    watched = [_Watched(session, name, stream) for name in names]
    form = options["format"]
    if not stream:
        for one in watched:
            one.take()
        _print(watched, form, options)
        return 0
    return _follow(session, watched, form, options, every=not arguments)


def _print(watched: list[_Watched], form: str, options: Options) -> None:
    rows.write(
        STATS,
        [one.latest for one in watched],
        form=form,
        default=DEFAULT,
        truncate=not options["no-trunc"],
    )


def _follow(
    session: Session, watched: list[_Watched], form: str, options: Options, *, every: bool
) -> int:
    import select
    import time

    poller = select.poll()
    by_fd = {one.response.fileno(): one for one in watched}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    drawn = 0.0
    while True:
        for fd, _ in poller.poll(500):
            if not by_fd[fd].take():
                poller.unregister(fd)
                watched.remove(by_fd.pop(fd))
        if not watched and not every:
            return 0
        if time.monotonic() - drawn < 0.5:
            continue
        drawn = time.monotonic()
        if every:
            _join(session, watched, by_fd, poller, options)
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[J")
        _print(watched, form, options)
        sys.stdout.flush()


def _join(
    session: Session,
    watched: list[_Watched],
    by_fd: dict[int, _Watched],
    poller: Any,
    options: Options,
) -> None:
    """Watch containers that have come up since."""
    import select

    known = {one.name for one in watched}
    for container in session.api.get("/containers/json", {"all": options["all"]}):
        name = container["Id"][:12]
        if name in known:
            continue
        try:
            one = _Watched(session, name, stream=True)
        except NotFound:
            continue
        watched.append(one)
        by_fd[one.response.fileno()] = one
        poller.register(one.response.fileno(), select.POLLIN)


STATS_COMMAND = Command(
    "[OPTIONS] [CONTAINER...]",
    "Display a live stream of container(s) resource usage statistics",
    stats,
    (
        Flag("all", "", "Show all containers (default shows just running)", "a"),
        Flag("format", "string", FORMAT_HELP),
        Flag("no-stream", "", "Disable streaming stats and only pull the first result"),
        Flag("no-trunc", "", "Do not truncate output"),
    ),
)
