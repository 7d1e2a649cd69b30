"""Networks: ``ls create rm connect disconnect``."""

from __future__ import annotations

from sampan.cli import rows, values
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.ps import FORMAT_HELP
from sampan.cli.rows import Kind, Row
from sampan.cli.units import short_id
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def _id(row: Row) -> str:
    return short_id(row.raw["Id"]) if row.truncate else str(row.raw["Id"])


def _bool(value: object) -> str:
    return "true" if value else "false"


def _created(row: Row) -> str:
    from sampan.cli.units import go_time, parse_rfc3339

    text = str(row.raw.get("Created") or "")
    plain = go_time(parse_rfc3339(text))
    fraction = text.partition(".")[2]
    for sign in "Z+-":
        fraction = fraction.partition(sign)[0]
    return plain[:19] + (f".{fraction}" if fraction else "") + plain[19:]


NETWORK = Kind(
    "*network.networkContext",
    {
        "ID": ("NETWORK ID", _id),
        "Name": ("NAME", lambda row: row.raw["Name"]),
        "Driver": ("DRIVER", lambda row: row.raw["Driver"]),
        "Scope": ("SCOPE", lambda row: row.raw["Scope"]),
        "IPv4": ("IPV4", lambda row: _bool(row.raw.get("EnableIPv4"))),
        "IPv6": ("IPV6", lambda row: _bool(row.raw.get("EnableIPv6"))),
        "Internal": ("INTERNAL", lambda row: _bool(row.raw.get("Internal"))),
        "Labels": ("LABELS", lambda row: rows.labels_text(row.raw.get("Labels"))),
        "Label": ("", lambda row: lambda name: (row.raw.get("Labels") or {}).get(name, "")),
        "CreatedAt": ("CREATED AT", _created),
    },
    methods=("Label",),
)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``net2`` before ``net10``."""
    parts: list[tuple[int, int, str]] = []
    digits = word = ""
    for letter in f"{name}\0":
        if letter.isdecimal():
            if word:
                parts.append((1, 0, word))
                word = ""
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        word += letter
    return [*parts, (1, 0, word)]


def ls(session: Session, options: Options, arguments: list[str]) -> int:
    """List networks."""
    query: dict[str, object] = {}
    if options["filter"]:
        query["filters"] = rows.filters(options["filter"])
    found = session.api.get("/networks", query)
    found.sort(key=lambda network: natural(network["Name"]))
    form = options["format"]
    rows.write(
        NETWORK,
        found,
        form=form,
        default=("ID", "Name", "Driver", "Scope"),
        quiet=options["quiet"],
        truncate=not options["no-trunc"],
    )
    return 0


def create(session: Session, options: Options, arguments: list[str]) -> int:
    """Create a network and print its identifier."""
    body: dict[str, Any] = {
        "Name": arguments[0],
        "Driver": options["driver"],
        "Scope": options["scope"],
        "Internal": options["internal"],
        "Attachable": options["attachable"],
        "Ingress": options["ingress"],
        "ConfigOnly": options["config-only"],
        "Options": values.pairs(options["opt"]),
        "Labels": values.labels((), options["label"]),
        "IPAM": {
            "Driver": options["ipam-driver"],
            "Options": values.pairs(options["ipam-opt"]),
            "Config": _ipam(options),
        },
    }
    if options["config-from"]:
        body["ConfigFrom"] = {"Network": options["config-from"]}
    if options.given("ipv4"):
        body["EnableIPv4"] = options["ipv4"]
    if options.given("ipv6"):
        body["EnableIPv6"] = options["ipv6"]
    answer = session.api.post("/networks/create", json=body)
    if answer.get("Warning"):
        session.complain(f"WARNING: {answer['Warning']}")
    session.say(answer["Id"])
    return 0


def _ipam(options: Options) -> list[dict[str, Any]]:
    """Each subnet with the range, the gateway and the reserved addresses that lie in it."""
    import ipaddress

    configs: dict[str, dict[str, Any]] = {}
    networks: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network] = {}
    for subnet in options["subnet"]:
        try:
            parsed = ipaddress.ip_network(subnet, strict=False)
        except ValueError:
            raise Failure(f"invalid CIDR address: {subnet}") from None
        if any(
            parsed.version == other.version and parsed.overlaps(other)
            for other in networks.values()
        ):
            raise Failure("multiple overlapping subnet configuration is not supported")
        networks[subnet] = parsed
        configs[subnet] = {"Subnet": subnet, "IPRange": "", "Gateway": "", "AuxiliaryAddresses": {}}

    def owner(text: str, what: str) -> dict[str, Any]:
        try:
            address = ipaddress.ip_address(text.partition("/")[0])
        except ValueError:
            raise Failure(f"invalid {what}: {text}") from None
        for subnet, network in networks.items():
            if address.version == network.version and address in network:
                return configs[subnet]
        raise Failure(f"no matching subnet for {what} {text}")

    for text in options["ip-range"]:
        config = owner(text, "range")
        if config["IPRange"]:
            raise Failure("cannot configure multiple ranges on the same subnet")
        config["IPRange"] = text
    for text in options["gateway"]:
        config = owner(text, "gateway")
        if config["Gateway"]:
            raise Failure("cannot configure multiple gateways for the same subnet")
        config["Gateway"] = text
    for name, text in values.pairs(options["aux-address"]).items():
        owner(text, "aux-address")["AuxiliaryAddresses"][name] = text
    return [{key: value for key, value in config.items() if value} for config in configs.values()]


def rm(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove networks."""
    from sampan.cli.main import describe
    from sampan.errors import NotFound, SampanError

    failed = 0
    for name in arguments:
        try:
            session.api.delete(f"/networks/{quote(name)}")
        except SampanError as error:
            if options["force"] and isinstance(error, NotFound):
                continue
            session.complain(describe(error))
            failed = 1
        else:
            session.say(name)
    return failed


def connect(session: Session, options: Options, arguments: list[str]) -> int:
    """Connect a container to a network."""
    endpoint: dict[str, Any] = {}
    ipam = {
        "IPv4Address": options["ip"],
        "IPv6Address": options["ip6"],
        "LinkLocalIPs": options["link-local-ip"],
    }
    if any(ipam.values()):
        endpoint["IPAMConfig"] = {key: value for key, value in ipam.items() if value}
    if options["alias"]:
        endpoint["Aliases"] = options["alias"]
    if options["link"]:
        endpoint["Links"] = options["link"]
    if options["driver-opt"]:
        endpoint["DriverOpts"] = values.pairs(options["driver-opt"])
    if options.given("gw-priority"):
        endpoint["GwPriority"] = options["gw-priority"]
    network, container = arguments
    session.api.post(
        f"/networks/{quote(network)}/connect",
        json={"Container": container, "EndpointConfig": endpoint},
    )
    return 0


def disconnect(session: Session, options: Options, arguments: list[str]) -> int:
    """Disconnect a container from a network."""
    network, container = arguments
    session.api.post(
        f"/networks/{quote(network)}/disconnect",
        json={"Container": container, "Force": options["force"]},
    )
    return 0


LS = Command(
    "[OPTIONS]",
    "List networks",
    ls,
    (
        Flag("filter", "filter", 'Provide filter values (e.g. "driver=bridge")', "f"),
        Flag("format", "string", FORMAT_HELP),
        Flag("no-trunc", "", "Do not truncate the output"),
        Flag("quiet", "", "Only display network IDs", "q"),
    ),
    most=0,
)
CREATE = Command(
    "[OPTIONS] NETWORK",
    "Create a network",
    create,
    (
        Flag("attachable", "", "Enable manual container attachment"),
        Flag("aux-address", "map", "Auxiliary IPv4 or IPv6 addresses used by Network driver"),
        Flag("config-from", "string", "The network from which to copy the configuration"),
        Flag("config-only", "", "Create a configuration only network"),
        Flag("driver", "string", "Driver to manage the Network", "d", "bridge"),
        Flag("gateway", "strings", "IPv4 or IPv6 Gateway for the master subnet"),
        Flag("ingress", "", "Create swarm routing-mesh network"),
        Flag("internal", "", "Restrict external access to the network"),
        Flag("ip-range", "strings", "Allocate container ip from a sub-range"),
        Flag("ipam-driver", "string", "IP Address Management Driver", default="default"),
        Flag("ipam-opt", "map", "Set IPAM driver specific options"),
        Flag("ipv4", "", "Enable or disable IPv4 address assignment", default=True),
        Flag("ipv6", "", "Enable or disable IPv6 address assignment"),
        Flag("label", "list", "Set metadata on a network"),
        Flag("opt", "map", "Set driver specific options", "o"),
        Flag("scope", "string", "Control the network's scope"),
        Flag("subnet", "strings", "Subnet in CIDR format that represents a network segment"),
    ),
    least=1,
    most=1,
)
RM = Command(
    "NETWORK [NETWORK...]",
    "Remove one or more networks",
    rm,
    (Flag("force", "", "Do not error if the network does not exist", "f"),),
    least=1,
)
CONNECT = Command(
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    connect,
    (
        Flag("alias", "strings", "Add network-scoped alias for the container"),
        Flag("driver-opt", "strings", "driver options for the network"),
        Flag("gw-priority", "int", "Highest gw-priority provides the default gateway"),
        Flag("ip", "string", 'IPv4 address (e.g., "172.30.100.104")'),
        Flag("ip6", "string", 'IPv6 address (e.g., "2001:db8::33")'),
        Flag("link", "list", "Add link to another container"),
        Flag("link-local-ip", "strings", "Add a link-local address for the container"),
    ),
    least=2,
    most=2,
)
DISCONNECT = Command(
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    disconnect,
    (Flag("force", "", "Force the container to disconnect from a network", "f"),),
    least=2,
    most=2,
)
