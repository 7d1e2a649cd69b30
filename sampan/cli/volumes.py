"""Volumes: ``ls create rm``."""

from __future__ import annotations

from sampan.cli import rows, values
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.networks import natural
from sampan.cli.ps import FORMAT_HELP
from sampan.cli.rows import Kind, Row
from sampan.cli.units import human_size
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

NO_CLUSTER = "this engine runs on one machine: it has no cluster volumes"


def _usage(row: Row, key: str) -> Any:
    usage = row.raw.get("UsageData") or {}
    return usage.get(key, -1)


def _size(row: Row) -> str:
    size = _usage(row, "Size")
    return "N/A" if size < 0 else human_size(size)


def _links(row: Row) -> str:
    links = _usage(row, "RefCount")
    return "N/A" if links < 0 else str(links)


VOLUME = Kind(
    "*formatter.volumeContext",
    {
        "Name": ("VOLUME NAME", lambda row: row.raw["Name"]),
        "Driver": ("DRIVER", lambda row: row.raw["Driver"]),
        "Scope": ("SCOPE", lambda row: row.raw.get("Scope") or ""),
        "Mountpoint": ("MOUNTPOINT", lambda row: row.raw.get("Mountpoint") or ""),
        "Labels": ("LABELS", lambda row: rows.labels_text(row.raw.get("Labels"))),
        "Label": ("", lambda row: lambda name: (row.raw.get("Labels") or {}).get(name, "")),
        "Links": ("LINKS", _links),
        "Size": ("SIZE", _size),
        "Group": ("GROUP", lambda row: "N/A"),
        "Availability": ("AVAILABILITY", lambda row: "N/A"),
        "Status": ("STATUS", lambda row: "N/A"),
    },
    short="Name",
    methods=("Label",),
)


def ls(session: Session, options: Options, arguments: list[str]) -> int:
    """List volumes."""
    if options["cluster"]:
        raise Failure(NO_CLUSTER, 125)
    query: dict[str, object] = {}
    if options["filter"]:
        query["filters"] = rows.filters(options["filter"])
    found = session.api.get("/volumes", query).get("Volumes") or []
    found.sort(key=lambda volume: natural(volume["Name"]))
    form = options["format"]
    rows.write(VOLUME, found, form=form, default=("Driver", "Name"), quiet=options["quiet"])
    return 0


_CLUSTER = (
    "availability",
    "group",
    "limit-bytes",
    "required-bytes",
    "scope",
    "secret",
    "sharing",
    "topology-preferred",
    "topology-required",
    "type",
)


def create(session: Session, options: Options, arguments: list[str]) -> int:
    """Create a volume and print its name."""
    if arguments and options["name"]:
        raise Failure(
            "conflicting options: cannot specify a volume-name through both --name and "
            "as a positional arg"
        )
    for flag in _CLUSTER:
        if options.given(flag):
            raise Failure(f"--{flag} is for cluster volumes: {NO_CLUSTER}", 125)
    body = {
        "Name": arguments[0] if arguments else options["name"],
        "Driver": options["driver"],
        "DriverOpts": values.pairs(options["opt"]),
        "Labels": values.labels((), options["label"]),
    }
    session.say(session.api.post("/volumes/create", json=body)["Name"])
    return 0


def rm(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove volumes."""
    from sampan.cli.main import describe
    from sampan.errors import SampanError

    failed = 0
    for name in arguments:
        try:
            session.api.delete(f"/volumes/{quote(name)}", {"force": options["force"]})
        except SampanError as error:
            session.complain(describe(error))
            failed = 1
        else:
            session.say(name)
    return failed


LS = Command(
    "[OPTIONS]",
    "List volumes",
    ls,
    (
        Flag("cluster", "", "Display only cluster volumes, and use cluster volume list formatting"),
        Flag("filter", "filter", 'Provide filter values (e.g. "dangling=true")', "f"),
        Flag("format", "string", FORMAT_HELP),
        Flag("quiet", "", "Only display volume names", "q"),
    ),
    most=0,
)
CREATE = Command(
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    create,
    (
        Flag("availability", "string", "Cluster Volume availability", default="active"),
        Flag("driver", "string", "Specify volume driver name", "d", "local"),
        Flag("group", "string", "Cluster Volume group"),
        Flag("label", "list", "Set metadata for a volume"),
        Flag("limit-bytes", "bytes", "Maximum size of the Cluster Volume in bytes"),
        Flag("name", "string", "Specify volume name"),
        Flag("opt", "map", "Set driver specific options", "o"),
        Flag("required-bytes", "bytes", "Minimum size of the Cluster Volume in bytes"),
        Flag("scope", "string", "Cluster Volume access scope", default="single"),
        Flag("secret", "map", "Cluster Volume secrets"),
        Flag("sharing", "string", "Cluster Volume access sharing", default="none"),
        Flag("topology-preferred", "list", "A topology that the Cluster Volume would prefer"),
        Flag("topology-required", "list", "A topology that the Cluster Volume must be in"),
        Flag("type", "string", "Cluster Volume access type", default="block"),
    ),
    most=1,
)
RM = Command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    rm,
    (Flag("force", "", "Force the removal of one or more volumes", "f"),),
    least=1,
)
