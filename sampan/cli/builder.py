"""``builder prune``."""

from __future__ import annotations

import sys

from sampan.cli import prune, rows
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def remove_cache(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove build cache."""
    prune.confirmed(
        session,
        options,
        "This will remove all build cache."
        if options["all"]
        else "This will remove all dangling build cache.",
    )
    found = rows.filters(options["filter"])
    text, freed = prune.build_cache(session, found, options["all"], options["keep-storage"])
    sys.stdout.write(f"{text}Total reclaimed space: {human_size(freed)}\n")
    return 0


PRUNE = Command(
    "",
    "Remove build cache",
    remove_cache,
    (
        Flag("all", "", "Remove all unused build cache, not just dangling ones", "a"),
        Flag("filter", "filter", 'Provide filter values (e.g. "until=24h")'),
        Flag("force", "", "Do not prompt for confirmation", "f"),
        Flag("keep-storage", "bytes", "Amount of disk space to keep for cache"),
    ),
    most=0,
)
