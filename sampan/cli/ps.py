"""``ps``: the list of containers."""

from __future__ import annotations

from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.rows import Kind, Row
from sampan.cli.units import ago, ellipsis, go_time, short_id, short_size
from sampan.wirejson import encode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

COMMAND_WIDTH = 20
MOUNT_WIDTH = 15


def _id(row: Row) -> str:
    identifier = str(row.raw["Id"])
    return short_id(identifier) if row.truncate else identifier


def names_of(raw: Any, truncate: bool = True) -> str:
    """A container's names; those that links gave it only when nothing is truncated."""
    names = [name.removeprefix("/") for name in raw.get("Names") or []]
    if truncate:
        names = [name for name in names if "/" not in name]
    return ",".join(names)


def _names(row: Row) -> str:
    return names_of(row.raw, row.truncate)


def image_of(raw: Any, truncate: bool = True) -> str:
    """The image as the container was asked to use it, or its identifier if the name has moved."""
    image = str(raw.get("Image") or "")
    if not image:
        return "<no image>"
    identifier = str(raw.get("ImageID") or "")
    if truncate:
        if short_id(identifier) and short_id(identifier) == short_id(image):
            return short_id(identifier)
        if image.startswith("sha256:"):
            return short_id(image)
        name, _, digest = image.partition("@")
        if digest and ":" not in name.rpartition("/")[2]:
            return name
    return image


def _image(row: Row) -> str:
    return image_of(row.raw, row.truncate)


def _command(row: Row) -> str:
    command = str(row.raw.get("Command") or "")
    if row.truncate:
        command = ellipsis(command, COMMAND_WIDTH)
    return encode_text(command)


def _size(row: Row) -> str:
    written = short_size(row.raw.get("SizeRw") or 0)
    total = row.raw.get("SizeRootFs") or 0
    return f"{written} (virtual {short_size(total)})" if total > 0 else written


def _mounts(row: Row) -> str:
    names = []
    for mount in row.raw.get("Mounts") or []:
        name = mount.get("Name") or mount.get("Source") or ""
        names.append(ellipsis(name, MOUNT_WIDTH) if row.truncate else name)
    return ",".join(names)


def _platform(row: Row) -> Any:
    platform = (row.raw.get("ImageManifestDescriptor") or {}).get("platform")
    return platform or None


def ports_text(ports: list[dict[str, Any]]) -> str:
    """Published and exposed ports, neighbours joined into ranges."""
    ordered = sorted(
        ports,
        key=lambda port: (
            port.get("PrivatePort") or 0,
            port.get("IP") or "",
            port.get("PublicPort") or 0,
            port.get("Type") or "",
        ),
    )
    ranges: dict[tuple[str, str], list[int]] = {}
    finished: list[str] = []
    mapped: list[str] = []
    for port in ordered:
        private, address = int(port.get("PrivatePort") or 0), str(port.get("IP") or "")
        protocol = str(port.get("Type") or "")
        if address and port.get("PublicPort") != private:
            mapped.append(
                f"{_host_port(address, str(port.get('PublicPort') or 0))}->{private}/{protocol}"
            )
            continue
        known = ranges.get((address, protocol))
        if known and private == known[1] + 1:
            known[1] = private
            continue
        if known:
            finished.append(_range(address, protocol, known))
        ranges[address, protocol] = [private, private]
    finished += [_range(address, protocol, found) for (address, protocol), found in ranges.items()]
    return ", ".join(finished + mapped)


def _host_port(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _range(address: str, protocol: str, found: list[int]) -> str:
    first, last = found
    text = str(first) if first == last else f"{first}-{last}"
    if address:
        text = f"{_host_port(address, text)}->{text}"
    return f"{text}/{protocol}"


CONTAINER = Kind(
    "*formatter.ContainerContext",
    {
        "ID": ("CONTAINER ID", _id),
        "Names": ("NAMES", _names),
        "Image": ("IMAGE", _image),
        "Command": ("COMMAND", _command),
        "CreatedAt": ("CREATED AT", lambda row: go_time(row.raw.get("Created") or 0)),
        "RunningFor": ("CREATED", lambda row: ago(row.raw.get("Created") or 0)),
        "Platform": ("PLATFORM", _platform),
        "Ports": ("PORTS", lambda row: ports_text(row.raw.get("Ports") or [])),
        "State": ("STATE", lambda row: row.raw.get("State") or ""),
        "Status": ("STATUS", lambda row: row.raw.get("Status") or ""),
        "Size": ("SIZE", _size),
        "Labels": ("LABELS", lambda row: rows.labels_text(row.raw.get("Labels"))),
        "Label": ("", lambda row: lambda name: (row.raw.get("Labels") or {}).get(name, "")),
        "Mounts": ("MOUNTS", _mounts),
        "LocalVolumes": (
            "LOCAL VOLUMES",
            lambda row: str(
                sum(mount.get("Driver") == "local" for mount in row.raw.get("Mounts") or [])
            ),
        ),
        "Networks": (
            "NETWORKS",
            lambda row: ",".join(
                sorted((row.raw.get("NetworkSettings") or {}).get("Networks") or {})
            ),
        ),
    },
    methods=("Label",),
)
DEFAULT = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def ps(session: Session, options: Options, arguments: list[str]) -> int:
    """List containers."""
    form = options["format"]
    if not form and not options["quiet"] and session_has_config(session):
        form = str(session.config.get("psFormat") or "")
    size = options["size"] or rows.wants(form, "Size")
    last = options["last"]
    if options["latest"] and not options.given("last"):
        last = 1
    query: dict[str, object] = {"all": options["all"] or last > 0, "size": size}
    if last > 0:
        query["limit"] = last
    if options["filter"]:
        query["filters"] = rows.filters(options["filter"])
    found = session.api.get("/containers/json", query)
    default = (*DEFAULT, "Size") if options["size"] else DEFAULT
    rows.write(
        CONTAINER,
        found,
        form=form,
        default=default,
        quiet=options["quiet"],
        truncate=not options["no-trunc"],
    )
    return 0


def session_has_config(session: Session) -> bool:
    """Whether the client has a configuration that may hold formats."""
    import os

    return os.path.exists(f"{session.config_dir}/config.json")


FORMAT_HELP = (
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template"
)

PS = Command(
    "[OPTIONS]",
    "List containers",
    ps,
    (
        Flag("all", "", "Show all containers (default shows just running)", "a"),
        Flag("filter", "filter", "Filter output based on conditions provided", "f"),
        Flag("format", "string", FORMAT_HELP),
        Flag(
            "last",
            "int",
            "Show n last created containers (includes all states)",
            "n",
            -1,
        ),
        Flag("latest", "", "Show the latest created container (includes all states)", "l"),
        Flag("no-trunc", "", "Don't truncate output"),
        Flag("quiet", "", "Only display container IDs", "q"),
        Flag("size", "", "Display total file sizes", "s"),
    ),
    most=0,
)
