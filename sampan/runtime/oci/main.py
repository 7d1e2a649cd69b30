"""The second stage of ``sampan-oci``: global options, the command, and how errors are told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from sampan import together
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import Options, parse

DEFAULT_ROOT = "/run/sampan-oci"


_NO_LETTERS: Mapping[str, str] = {}


class _Command(NamedTuple):
    """Where a command is (``module:function``), its options, and the letters for them."""

    place: str
    flags: str = ""
    valued: str = ""
    short: Mapping[str, str] = _NO_LETTERS
    mixed: bool = True


_MAKING = "no-pivot no-new-keyring"
_MAKING_VALUED = "bundle config console-socket pid-file preserve-fds"
_CRIU = "tcp-established ext-unix-sk shell-job file-locks auto-dedup"
_CRIU_VALUED = "image-path work-path manage-cgroups-mode empty-ns criu"
_COMMANDS = {
    "create": _Command("create:create", _MAKING, _MAKING_VALUED, {"b": "bundle", "f": "config"}),
    "run": _Command(
        "running:run",
        f"{_MAKING} detach keep no-subreaper",
        _MAKING_VALUED,
        {"b": "bundle", "d": "detach", "f": "config"},
    ),
    "start": _Command("lifecycle:start"),
    "state": _Command("reports:state"),
    "kill": _Command("lifecycle:kill", "all", "", {"a": "all"}),
    "delete": _Command("lifecycle:delete", "force", "", {"f": "force"}),
    "exec": _Command(
        "joining:execute",
        "tty detach no-new-privs ignore-paused",
        "console-socket cwd env user additional-gids process pid-file process-label apparmor cap "
        "preserve-fds cgroup",
        {
            "t": "tty",
            "d": "detach",
            "e": "env",
            "u": "user",
            "g": "additional-gids",
            "p": "process",
            "c": "cap",
        },
        mixed=False,
    ),
    "pause": _Command("lifecycle:pause"),
    "resume": _Command("lifecycle:resume"),
    "list": _Command("reports:list_", "quiet", "format", {"q": "quiet", "f": "format"}),
    "ps": _Command("reports:ps", "", "format", {"f": "format"}, mixed=False),
    "events": _Command("reports:events", "stats", "interval"),
    "update": _Command(
        "limits:update",
        "",
        "memory memory-reservation memory-swap cpu-period cpu-quota cpu-share cpu-rt-period "
        "cpu-rt-runtime cpuset-cpus cpuset-mems pids-limit blkio-weight resources",
        {"r": "resources"},
    ),
    "checkpoint": _Command(
        "checkpoint:checkpoint", f"{_CRIU} leave-running pre-dump", f"{_CRIU_VALUED} parent-path"
    ),
    "restore": _Command(
        "checkpoint:restore",
        f"{_CRIU} detach no-subreaper",
        f"{_CRIU_VALUED} bundle console-socket pid-file lsm-profile lsm-mount-context",
        {"b": "bundle", "d": "detach"},
    ),
    "features": _Command("reports:features"),
    "spec": _Command("reports:spec", "rootless", "bundle file", {"b": "bundle", "f": "file"}),
}
_GLOBAL = "debug systemd-cgroup help version"
_GLOBAL_VALUED = "root log log-format rootless cgroup-manager log-level criu"


def main(program: str) -> NoReturn:
    """Run the command line ``sys.argv[1:]`` and exit with its code."""
    options = Options()
    code = 0
    try:
        options = parse(
            sys.argv[1:],
            _GLOBAL,
            _GLOBAL_VALUED,
            {"h": "help", "v": "version", "V": "version"},
        )
        code = _run(options)
    except OciError as failure:
        _report(options, str(failure))
        code = failure.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 1
    if not code:
        together.keep("oci")
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 1
    os._exit(code)


def _run(options: Options) -> int:
    if options.flag("version"):
        from sampan.runtime.oci.reports import version

        return version()
    if options.flag("help") or not options.arguments or options.arguments[0] in ("help", "h"):
        return _help(options.arguments[1:]) if options.arguments else _help([])
    manager = options.text("cgroup-manager", "cgroupfs")
    if manager not in ("cgroupfs", "systemd"):
        raise OciError(f"--cgroup-manager {manager} is not supported: cgroupfs and systemd are")
    if options.text("rootless", "auto") not in ("auto", "false"):
        raise OciError("--rootless is not supported")
    if options.text("log-format", "text") not in ("text", "json"):
        raise OciError(f"unknown log format {options.text('log-format')!r} (text or json)")
    name, *words = options.arguments
    command = _command(name)
    short = {**command.short, "h": "help"}
    given = parse(words, f"{command.flags} help", command.valued, short, mixed=command.mixed)
    if given.flag("help"):
        return _help([name])
    if options.flag("systemd-cgroup") or manager == "systemd":
        given.values["systemd-cgroup"] = ["true"]
    if options.text("criu"):
        given.values.setdefault("criu", options.all("criu"))
    if os.geteuid() != 0 and name not in ("features", "spec", "list", "state"):
        raise OciError("sampan-oci must be run by root")
    call = _load(command.place)
    together.ready(name)
    return call(options.text("root", DEFAULT_ROOT).rstrip("/"), given)


def _help(names: Sequence[str]) -> int:
    from sampan.runtime.oci import helping

    if not names:
        print(helping.overview())
        return 0
    command = _command(names[0])
    options = [*command.flags.split(), *command.valued.split()]
    print(helping.command(names[0], options, command.short))
    return 0


def _command(name: str) -> _Command:
    if name not in _COMMANDS:
        raise OciError(f"unknown command {name!r} ('sampan-oci --help' lists them)")
    return _COMMANDS[name]


def _load(place: str) -> Callable[[str, Options], int]:
    module, _, function = place.partition(":")
    found = __import__(f"sampan.runtime.oci.{module}", fromlist=[function])
    call: Callable[[str, Options], int] = getattr(found, function)
    if groups := sys.modules.get("sampan.runtime.cgroups"):
        # The code for the host's version of them comes with it, and is kept with the rest.
        try:
            groups.layout()
        except OSError:
            pass  # who makes a group will tell
    return call


def _report(options: Options, message: str) -> None:
    print(f"sampan-oci: {message}", file=sys.stderr)
    log = options.text("log")
    if not log:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.text("log-format") == "json":
        import json

        line = json.dumps({"level": "error", "msg": message, "time": now})
    else:
        quoted = message.replace("\\", "\\\\").replace('"', '\\"')
        line = f'time="{now}" level=error msg="{quoted}"'
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as failure:
        print(f"sampan-oci: cannot write to {log}: {failure.strerror}", file=sys.stderr)
