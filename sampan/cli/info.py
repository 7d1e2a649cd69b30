"""``info``."""

from __future__ import annotations

import sys

from sampan import __version__, wirejson
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.units import binary_size
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def info(session: Session, options: Options, arguments: list[str]) -> int:
    """Print facts about the client and the daemon."""
    client = {
        "Debug": bool(session.options["debug"]),
        "Version": __version__,
        "Context": session.host.context,
        "Plugins": [],
        "Warnings": None,
    }
    found: dict[str, Any] = {}
    failure: SampanError | None = None
    try:
        found = session.api.get("/info")
    except SampanError as error:
        failure = error
    form = options["format"]
    if form:
        everything = {**found, "ClientInfo": client}
        if failure is not None:
            everything["ServerErrors"] = [str(failure)]
        formatted(session, form, everything)
    else:
        lines = _client(client)
        lines += ["", "Server:", *(_server(found) if found else [f"ERROR: {failure}"])]
        sys.stdout.write("\n".join(lines) + "\n\n")
        for warning in found.get("Warnings") or []:
            session.complain(str(warning))
    if failure is not None:
        raise Failure("errors pretty printing info" if not form else "")
    return 0


def formatted(session: Session, form: str, value: dict[str, Any]) -> None:
    if form == "json":
        session.say(wirejson.dumps(value))
        return
    from sampan.gotemplate import Template, TemplateError

    try:
        template = Template(form, strict=True)
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None
    try:
        session.say(template.render(value))
    except TemplateError as error:
        raise Failure(str(error)) from None


def _client(client: dict[str, Any]) -> list[str]:
    return [
        "Client:",
        f" Version:    {client['Version']}",
        f" Context:    {client['Context']}",
        f" Debug Mode: {_bool(client['Debug'])}",
    ]


def _bool(value: object) -> str:
    return "true" if value else "false"


def _server(found: dict[str, Any]) -> list[str]:
    get = found.get
    lines = [
        f" Containers: {get('Containers', 0)}",
        f"  Running: {get('ContainersRunning', 0)}",
        f"  Paused: {get('ContainersPaused', 0)}",
        f"  Stopped: {get('ContainersStopped', 0)}",
        f" Images: {get('Images', 0)}",
    ]
    lines += _some(found, ("Server Version", "ServerVersion"), ("Storage Driver", "Driver"))
    lines += [f"  {key}: {value}" for key, value in get("DriverStatus") or []]
    lines += _some(
        found,
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    )
    plugins = get("Plugins") or {}
    lines.append(" Plugins:")
    lines += [
        f"  {kind}: {' '.join(plugins.get(kind) or [])}"
        for kind in ("Volume", "Network", "Authorization", "Log")
        if plugins.get(kind)
    ]
    lines.append(f" Swarm: {(get('Swarm') or {}).get('LocalNodeState') or 'inactive'}")
    if get("Runtimes"):
        lines.append(f" Runtimes: {' '.join(sorted(found['Runtimes']))}")
        lines.append(f" Default Runtime: {get('DefaultRuntime', '')}")
    lines += _some(found, ("Init Binary", "InitBinary"))
    for name, key in (
        ("containerd", "ContainerdCommit"),
        ("runc", "RuncCommit"),
        ("init", "InitCommit"),
    ):
        commit = (get(key) or {}).get("ID")
        if commit:
            lines.append(f" {name} version: {commit}")
    lines += _security(get("SecurityOptions") or [])
    lines += _some(
        found,
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    )
    lines += [
        f" CPUs: {get('NCPU', 0)}",
        f" Total Memory: {binary_size(get('MemTotal') or 0)}",
        f" Name: {get('Name', '')}",
        f" ID: {get('ID', '')}",
        f" Docker Root Dir: {get('DockerRootDir', '')}",
        f" Debug Mode: {_bool(get('Debug'))}",
    ]
    if get("Debug"):
        lines += [
            f"  File Descriptors: {get('NFd', 0)}",
            f"  Goroutines: {get('NGoroutines', 0)}",
            f"  System Time: {get('SystemTime', '')}",
            f"  EventsListeners: {get('NEventsListener', 0)}",
        ]
    lines += _some(
        found,
        ("HTTP Proxy", "HttpProxy"),
        ("HTTPS Proxy", "HttpsProxy"),
        ("No Proxy", "NoProxy"),
    )
    if get("Labels"):
        lines.append(" Labels:")
        lines += [f"  {label}" for label in found["Labels"]]
    lines.append(f" Experimental: {_bool(get('ExperimentalBuild'))}")
    lines += _registries(get("RegistryConfig") or {})
    lines.append(f" Live Restore Enabled: {_bool(get('LiveRestoreEnabled'))}")
    pools = get("DefaultAddressPools") or []
    if pools:
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools]
    return lines


def _some(found: dict[str, Any], *names: tuple[str, str]) -> list[str]:
    return [f" {title}: {found[key]}" for title, key in names if found.get(key)]


def _security(options: list[str]) -> list[str]:
    if not options:
        return []
    lines = [" Security Options:"]
    for option in options:
        pairs = dict(part.partition("=")[::2] for part in option.split(","))
        lines.append(f"  {pairs.pop('name', option)}")
        lines += [
            f"   {'Profile' if key == 'profile' else key}: {value}" for key, value in pairs.items()
        ]
    return lines


def _registries(config: dict[str, Any]) -> list[str]:
    lines = []
    insecure = [
        name
        for name, entry in (config.get("IndexConfigs") or {}).items()
        if not entry.get("Secure", True)
    ]
    ranges = config.get("InsecureRegistryCIDRs") or []
    if insecure or ranges:
        lines.append(" Insecure Registries:")
        lines += [f"  {name}" for name in (*insecure, *ranges)]
    if config.get("Mirrors"):
        lines.append(" Registry Mirrors:")
        lines += [f"  {mirror}" for mirror in config["Mirrors"]]
    return lines


INFO = Command(
    "[OPTIONS]",
    "Display system-wide information",
    info,
    (
        Flag(
            "format",
            "string",
            "Format output using a custom template:\n"
            "'json':             Print in JSON format\n"
            "'TEMPLATE':         Print output using the given Go template",
            "f",
        ),
    ),
    most=0,
)
