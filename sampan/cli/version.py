"""``version``."""

from __future__ import annotations

import sys

from sampan import __version__
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

API_VERSION = "1.51"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def _client(session: Session, negotiated: str) -> dict[str, Any]:
    import os

    machine = os.uname().machine
    return {
        "Version": __version__,
        "ApiVersion": negotiated or API_VERSION,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": "{}.{}.{}".format(*sys.version_info[:3]),
        "Os": "linux",
        "Arch": _ARCHITECTURES.get(machine, machine),
        "Context": session.host.context,
    }


def version(session: Session, options: Options, arguments: list[str]) -> int:
    """Print the versions of the client and of the daemon."""
    server: dict[str, Any] | None = None
    failure: SampanError | None = None
    try:
        server = session.api.get("/version")
    except SampanError as error:
        failure = error
    negotiated = API_VERSION
    if server:
        theirs = str(server.get("ApiVersion") or API_VERSION)
        if _key(theirs) < _key(API_VERSION):
            negotiated = theirs
    client = _client(session, negotiated)
    form = options["format"]
    if form:
        from sampan.cli.info import formatted

        formatted(session, form, {"Client": client, "Server": server})
    else:
        _print(client, server)
    if failure is not None:
        from sampan.cli.main import describe

        raise Failure(describe(failure))
    return 0


def _key(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _print(client: dict[str, Any], server: dict[str, Any] | None) -> None:
    api = client["ApiVersion"]
    if api != client["DefaultAPIVersion"]:
        api += f" (downgraded from {client['DefaultAPIVersion']})"
    lines = [
        "Client:",
        f" Version:           {client['Version']}",
        f" API version:       {api}",
        f" Python version:    {client['PythonVersion']}",
        f" OS/Arch:           {client['Os']}/{client['Arch']}",
        f" Context:           {client['Context']}",
    ]
    if server is not None:
        platform = (server.get("Platform") or {}).get("Name") or ""
        lines += ["", f"Server: {platform}".rstrip() + (":" if not platform else "")]
        lines[-1] = lines[-1].replace("Server::", "Server:")
        for component in server.get("Components") or []:
            details = component.get("Details") or {}
            lines.append(f" {component['Name']}:")
            if component["Name"] == "Engine":
                lines += _engine(component["Version"], details)
            else:
                lines.append(f"  Version:          {component['Version']}")
                lines += [f"  {f'{key}:':<18}{value}" for key, value in sorted(details.items())]
    sys.stdout.write("\n".join(lines) + "\n")


def _engine(number: str, details: dict[str, str]) -> list[str]:
    known = (
        ("Version", number),
        (
            "API version",
            f"{details.get('ApiVersion', '')} (minimum version {details.get('MinAPIVersion', '')})",
        ),
        ("Go version", details.get("GoVersion")),
        ("Python version", details.get("PythonVersion")),
        ("Git commit", details.get("GitCommit")),
        ("Built", _date(details.get("BuildTime") or "")),
        ("OS/Arch", f"{details.get('Os', '')}/{details.get('Arch', '')}"),
        ("Experimental", details.get("Experimental") or "false"),
    )
    return [f"  {f'{name}:':<18}{value}" for name, value in known if value]


def _date(text: str) -> str:
    """A time as ``Thu May  7 21:09:36 2026``; text of another form as it is."""
    import time

    from sampan.cli.units import parse_rfc3339

    try:
        return time.asctime(time.gmtime(parse_rfc3339(text))) if "T" in text else text
    except ValueError:
        return text


VERSION = Command(
    "[OPTIONS]",
    "Show the version information of client and server",
    version,
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
