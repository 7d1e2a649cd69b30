"""``logs``."""

from __future__ import annotations

import sys

from sampan.cli.attached import MULTIPLEXED
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.pump import write_all
from sampan.cli.times import timestamp
from sampan.client.http import quote
from sampan.client.streams import STDERR, demultiplex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session
    from sampan.client.http import Response


def logs(session: Session, options: Options, arguments: list[str]) -> int:
    """Print what a container has written."""
    name = quote(arguments[0])
    query: dict[str, object] = {
        "stdout": True,
        "stderr": True,
        "follow": options["follow"],
        "timestamps": options["timestamps"],
        "details": options["details"],
        "tail": options["tail"],
        "since": timestamp(options["since"]) or None,
        "until": timestamp(options["until"]) or None,
    }
    path = f"/containers/{name}/logs"
    if options["follow"]:
        from sampan.cli.following import follow

        return follow(session, path, query)
    return copy_out(session, path, session.api.open("GET", path, query))


def copy_out(session: Session, path: str, response: Response) -> int:
    """Print an answer of ``path``, a container's log."""
    framed = response.headers.get("content-type") == MULTIPLEXED
    if not framed:
        # Older daemons call both kinds raw; only the configuration tells.
        container = session.api.get(f"{path.removesuffix('/logs')}/json")
        framed = not container["Config"]["Tty"]
    sys.stdout.flush()
    if framed:
        for stream, piece in demultiplex(map(memoryview, response.chunks())):
            write_all(2 if stream == STDERR else 1, piece)
    else:
        for data in response.chunks():
            write_all(1, data)
    return 0


LOGS = Command(
    "[OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    logs,
    (
        Flag("details", "", "Show extra details provided to logs"),
        Flag("follow", "", "Follow log output", "f"),
        Flag(
            "since",
            "string",
            'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative '
            '(e.g. "42m" for 42 minutes)',
        ),
        Flag("tail", "string", "Number of lines to show from the end of the logs", "n", "all"),
        Flag("timestamps", "", "Show timestamps", "t"),
        Flag(
            "until",
            "string",
            'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative '
            '(e.g. "42m" for 42 minutes)',
        ),
    ),
    least=1,
    most=1,
)
