"""``search``: images of the default registry."""

from __future__ import annotations

from sampan.cli import credentials, rows
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.rows import Kind, Row
from sampan.cli.units import ellipsis

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

DESCRIPTION_WIDTH = 45


def _description(row: Row) -> str:
    text = str(row.raw.get("description") or "").replace("\n", " ").replace("\r", " ")
    return ellipsis(text, DESCRIPTION_WIDTH) if row.truncate else text


def _mark(row: Row, key: str) -> str:
    return "[OK]" if row.raw.get(key) else ""


HIT = Kind(
    "*formatter.searchContext",
    {
        "Name": ("NAME", lambda row: row.raw["name"]),
        "Description": ("DESCRIPTION", _description),
        "StarCount": ("STARS", lambda row: str(row.raw.get("star_count") or 0)),
        "IsOfficial": ("OFFICIAL", lambda row: _mark(row, "is_official")),
        "IsAutomated": ("AUTOMATED", lambda row: _mark(row, "is_automated")),
    },
    short="Name",
)


def search(session: Session, options: Options, arguments: list[str]) -> int:
    """Search by words."""
    query: dict[str, object] = {"term": arguments[0], "limit": options["limit"] or None}
    if options["filter"]:
        query["filters"] = rows.filters(options["filter"])
    found = session.api.call(
        "GET", "/images/search", query, headers=credentials.header(session, arguments[0])
    )
    rows.write(
        HIT,
        found,
        form=options["format"],
        default=("Name", "Description", "StarCount", "IsOfficial"),
        truncate=not options["no-trunc"],
    )
    return 0


SEARCH = Command(
    "[OPTIONS] TERM",
    "Search the default registry for images",
    search,
    (
        Flag("filter", "filter", "Filter output based on conditions provided", "f"),
        Flag("format", "string", "Pretty-print search using a Go template"),
        Flag("limit", "int", "Max number of search results"),
        Flag("no-trunc", "", "Don't truncate output"),
    ),
    least=1,
    most=1,
)
