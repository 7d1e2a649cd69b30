"""``history``: the steps that an image was made of."""

from __future__ import annotations

from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.images import platform_json
from sampan.cli.ps import FORMAT_HELP
from sampan.cli.rows import Kind, Row
from sampan.cli.units import ago, ellipsis, rfc3339, short_id, short_size
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

COMMAND_WIDTH = 45


def _id(row: Row) -> str:
    identifier = str(row.raw["Id"])
    return short_id(identifier) if row.truncate else identifier


def _created_by(row: Row) -> str:
    command = str(row.raw.get("CreatedBy") or "").replace("\t", " ")
    return ellipsis(command, COMMAND_WIDTH) if row.truncate else command


def _kind(human: bool) -> Kind:
    def since(row: Row) -> str:
        created = row.raw.get("Created") or 0
        return (ago(created) if created > 0 else "N/A") if human else rfc3339(created)

    def size(row: Row) -> str:
        return short_size(row.raw["Size"]) if human else str(row.raw["Size"])

    return Kind(
        "*formatter.historyContext",
        {
            "ID": ("IMAGE", _id),
            "CreatedSince": ("CREATED" if human else "CREATED AT", since),
            "CreatedAt": ("CREATED AT", lambda row: rfc3339(row.raw.get("Created") or 0)),
            "CreatedBy": ("CREATED BY", _created_by),
            "Size": ("SIZE", size),
            "Comment": ("COMMENT", lambda row: row.raw.get("Comment") or ""),
        },
    )


def history(session: Session, options: Options, arguments: list[str]) -> int:
    """Print an image's history, newest step first."""
    query: dict[str, object] = {}
    if options["platform"]:
        query["platform"] = platform_json(options["platform"])
    found = session.api.get(f"/images/{quote(arguments[0])}/history", query)
    rows.write(
        _kind(options["human"]),
        found,
        form=options["format"],
        default=("ID", "CreatedSince", "CreatedBy", "Size", "Comment"),
        quiet=options["quiet"],
        truncate=not options["no-trunc"],
    )
    return 0


HISTORY = Command(
    "[OPTIONS] IMAGE",
    "Show the history of an image",
    history,
    (
        Flag("format", "string", FORMAT_HELP),
        Flag("human", "", "Print sizes and dates in human readable format", "H", True),
        Flag("no-trunc", "", "Don't truncate output"),
        Flag("platform", "string", 'Show history for the given platform ("os/arch")'),
        Flag("quiet", "", "Only show image IDs", "q"),
    ),
    least=1,
    most=1,
)
