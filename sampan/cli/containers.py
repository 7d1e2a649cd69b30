"""Commands that act on containers with one request each."""

from __future__ import annotations

import sys

from sampan.cli import table
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.session import each, failures
from sampan.client.http import quote
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_MANY = "[OPTIONS] CONTAINER [CONTAINER...]"
_SIGNAL = Flag("signal", "string", "Signal to send to the container", "s")
_TIMEOUT = Flag("timeout", "int", "Seconds to wait before killing the container", "t")


def _halting(options: Options) -> dict[str, object]:
    return {
        "signal": options["signal"] or None,
        "t": options["timeout"] if options.given("timeout") else None,
    }


def stop(session: Session, options: Options, arguments: list[str]) -> int:
    """Ask containers to end, and kill them if they do not."""
    return each(session, arguments, "POST", "/containers/{}/stop", _halting(options))


def restart(session: Session, options: Options, arguments: list[str]) -> int:
    """Stop and start containers."""
    return each(session, arguments, "POST", "/containers/{}/restart", _halting(options))


def kill(session: Session, options: Options, arguments: list[str]) -> int:
    """Send a signal to containers' main processes."""
    query: dict[str, object] = {"signal": options["signal"] or None}
    return each(session, arguments, "POST", "/containers/{}/kill", query)


def pause(session: Session, options: Options, arguments: list[str]) -> int:
    """Freeze containers."""
    return each(session, arguments, "POST", "/containers/{}/pause")


def unpause(session: Session, options: Options, arguments: list[str]) -> int:
    """Thaw containers."""
    return each(session, arguments, "POST", "/containers/{}/unpause")


def rm(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove containers."""
    query: dict[str, object] = {
        "force": options["force"],
        "v": options["volumes"],
        "link": options["link"],
    }
    failed = failures(session, arguments, "DELETE", "/containers/{}", query)
    # What is not there is said, but is no failure of a forced removal.
    fine = (NotFound,) if options["force"] else ()
    return int(any(not isinstance(error, fine) for error in failed.values()))


def wait(session: Session, options: Options, arguments: list[str]) -> int:
    """Print the exit code of each container when it has ended."""
    from sampan.cli.main import describe
    from sampan.errors import SampanError

    failed = 0
    for name in arguments:
        try:
            answer = session.api.post(f"/containers/{quote(name)}/wait")
        except SampanError as error:
            session.complain(describe(error))
            failed = 1
            continue
        session.say(str(answer["StatusCode"]))
        sys.stdout.flush()
    return failed


def rename(session: Session, options: Options, arguments: list[str]) -> int:
    """Give a container another name."""
    old, new = (argument.strip() for argument in arguments)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    session.api.post(f"/containers/{quote(old)}/rename", {"name": new})
    return 0


def top(session: Session, options: Options, arguments: list[str]) -> int:
    """Print a container's processes; arguments after its name go to ps."""
    query: dict[str, object] = {"ps_args": " ".join(arguments[1:]) or None}
    found = session.api.get(f"/containers/{quote(arguments[0])}/top", query)
    lines = [found["Titles"], *(found["Processes"] or [])]
    text = "".join("\t".join(line) + "\n" for line in lines)
    sys.stdout.write(table.aligned(text, 20))
    return 0


def diff(session: Session, options: Options, arguments: list[str]) -> int:
    """Print the paths that a container has changed (C), added (A) or deleted (D)."""
    if not arguments[0]:
        raise Failure("Container name cannot be empty")
    found = session.api.get(f"/containers/{quote(arguments[0])}/changes")
    for change in found or []:
        session.say(f"{'CAD'[change['Kind']]} {change['Path']}")
    return 0


def port(session: Session, options: Options, arguments: list[str]) -> int:
    """Print where a container's ports are published."""
    found = session.api.get(f"/containers/{quote(arguments[0])}/json")
    ports = found["NetworkSettings"].get("Ports") or {}
    if len(arguments) > 1:
        wanted = arguments[1]
        number, slash, protocol = wanted.partition("/")
        if not number.isdecimal() or int(number) > 65535:
            raise Failure(f"Error: invalid port ({wanted})")
        key = f"{number}/{protocol if slash else 'tcp'}"
        if not ports.get(key):
            raise Failure(f"Error: No public port '{wanted}' published for {arguments[0]}")
        for binding in ports[key]:
            session.say(_address(binding))
        return 0
    lines = [
        (int(key.partition("/")[0]), key, _address(binding))
        for key, bindings in ports.items()
        for binding in bindings or []
    ]
    for _, key, address in sorted(lines, key=lambda line: line[:2]):
        session.say(f"{key} -> {address}")
    return 0


def _address(binding: dict[str, str]) -> str:
    address = binding.get("HostIp") or ""
    return (
        f"[{address}]:{binding['HostPort']}"
        if ":" in address
        else (f"{address}:{binding['HostPort']}")
    )


def export(session: Session, options: Options, arguments: list[str]) -> int:
    """Write a container's file system as a tar archive."""
    from sampan.cli.files import save_stream

    if not options["output"] and sys.stdout.isatty():
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = session.api.open("GET", f"/containers/{quote(arguments[0])}/export")
    save_stream(response.chunks(), options["output"])
    return 0


STOP = Command(_MANY, "Stop one or more running containers", stop, (_SIGNAL, _TIMEOUT), least=1)
RESTART = Command(_MANY, "Restart one or more containers", restart, (_SIGNAL, _TIMEOUT), least=1)
KILL = Command(_MANY, "Kill one or more running containers", kill, (_SIGNAL,), least=1)
PAUSE = Command(
    "CONTAINER [CONTAINER...]",
    "Pause all processes within one or more containers",
    pause,
    least=1,
)
UNPAUSE = Command(
    "CONTAINER [CONTAINER...]",
    "Unpause all processes within one or more containers",
    unpause,
    least=1,
)
RM = Command(
    _MANY,
    "Remove one or more containers",
    rm,
    (
        Flag("force", "", "Force the removal of a running container (uses SIGKILL)", "f"),
        Flag("link", "", "Remove the specified link", "l"),
        Flag("volumes", "", "Remove anonymous volumes associated with the container", "v"),
    ),
    least=1,
)
WAIT = Command(
    "CONTAINER [CONTAINER...]",
    "Block until one or more containers stop, then print their exit codes",
    wait,
    least=1,
)
RENAME = Command("CONTAINER NEW_NAME", "Rename a container", rename, least=2, most=2)
TOP = Command(
    "CONTAINER [ps OPTIONS]",
    "Display the running processes of a container",
    top,
    least=1,
    interspersed=False,
)
DIFF = Command(
    "CONTAINER",
    "Inspect changes to files or directories on a container's filesystem",
    diff,
    least=1,
    most=1,
)
PORT = Command(
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List port mappings or a specific mapping for the container",
    port,
    least=1,
    most=2,
)
EXPORT = Command(
    "[OPTIONS] CONTAINER",
    "Export a container's filesystem as a tar archive",
    export,
    (Flag("output", "string", "Write to a file, instead of STDOUT", "o"),),
    least=1,
    most=1,
)
