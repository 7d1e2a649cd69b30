"""The entry point: global flags, the command's module, and how failures are shown."""

from __future__ import annotations

import os
import sys

from sampan import together
from sampan.cli import flags as flag_rules
from sampan.cli.command import PROGRAM
from sampan.cli.commands import ALIASES, COMMANDS, GROUPS, HIDDEN
from sampan.cli.failure import Failure, UsageFailure
from sampan.cli.flags import Flag
from sampan.cli.session import Session
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.command import Command

GLOBAL_FLAGS = (
    Flag("config", "string", "Location of client config files", shown='"~/.docker"'),
    Flag(
        "context",
        "string",
        "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and "
        'default context set with "sampan context use")',
        "c",
    ),
    Flag("debug", "", "Enable debug mode", "D"),
    Flag("host", "list", "Daemon socket to connect to", "H"),
    Flag(
        "log-level",
        "string",
        'Set the logging level ("debug", "info", "warn", "error", "fatal")',
        "l",
        "info",
    ),
    Flag("run-dir", "string", "Directory of the sockets of the daemon to use, or to start"),
    Flag("state-dir", "string", "Directory of images and containers of a daemon to start"),
    Flag("tls", "", "Use TLS; implied by --tlsverify"),
    Flag("tlscacert", "string", "Trust certs signed only by this CA", shown='"~/.docker/ca.pem"'),
    Flag("tlscert", "string", "Path to TLS certificate file", shown='"~/.docker/cert.pem"'),
    Flag("tlskey", "string", "Path to TLS key file", shown='"~/.docker/key.pem"'),
    Flag("tlsverify", "", "Use TLS and verify the remote"),
    Flag("version", "", "Print version information and quit", "v"),
)
_WIDTH = 80
_KEPT_TOGETHER = frozenset(
    (
        *("build", "create", "exec", "images", "inspect", "kill", "logs", "ps", "pull", "push"),
        *("rm", "run", "start", "stop"),
    )
)
"""Commands whose code is kept in one file each: those that people and scripts use all day."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code."""
    given = sys.argv[1:] if words is None else list(words)
    try:
        code = _main(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone: what every tool of a pipe does then is to end by SIGPIPE.
        sys.stdout = None
        return 141
    except KeyboardInterrupt:
        return 130


def _fill_streams() -> None:
    """Put the null device where a standard stream is closed: else a socket takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def entry() -> None:
    """Run the process's command line and end the process."""
    _fill_streams()
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass
    together.keep("cli")
    # Tearing the interpreter down would cost as much again as a small command.
    os._exit(code)


def _main(words: list[str]) -> int:
    try:
        options, rest = flag_rules.parse(GLOBAL_FLAGS, words, interspersed=False)
    except flag_rules.Help:
        sys.stdout.write(_program_help())
        return 0
    except UsageFailure as failure:
        sys.stderr.write(
            f"{failure.message}\n\nUsage:  {PROGRAM} [OPTIONS] COMMAND [ARG...]\n\n"
            f"Run '{PROGRAM} --help' for more information\n"
        )
        return failure.code
    session = Session(options)
    if options["version"]:
        from sampan import __version__

        session.say(f"Sampan version {__version__}")
        return 0
    if not rest or (rest[0] == "help" and len(rest) == 1):
        sys.stdout.write(_program_help())
        return 0
    if rest[0] == "help":
        rest = [*rest[1:], "--help"]
    return _dispatch(session, rest)


def _dispatch(session: Session, words: list[str]) -> int:
    name, rest = words[0], words[1:]
    if name in GROUPS:
        if not rest or rest[0] in ("--help", "-h"):
            sys.stdout.write(_group_help(name))
            return 0
        if rest[0].startswith("-"):
            sys.stderr.write(_unknown_group_flag(name, rest[0]))
            return 125
        key = ALIASES.get(f"{name} {rest[0]}", f"{name} {rest[0]}")
        session.words = f"{name} {rest[0]}"
        rest = rest[1:]
    else:
        key = ALIASES.get(name, name)
        session.words = name
    if key not in COMMANDS:
        context = f" {name}" if name in GROUPS else ""
        usage = f"\nUsage:  {PROGRAM}{context}\n" if context else ""
        sys.stderr.write(
            f"{PROGRAM}: unknown command: {PROGRAM} {session.words}\n{usage}\n"
            f"Run '{PROGRAM}{context} --help' for more information\n"
        )
        return 1
    return _run(session, key, rest)


def command_of(key: str) -> Command:
    """The command known by the words ``key``; imports its module."""
    module, _, attribute = COMMANDS[key][0].partition(":")
    found: Command = getattr(__import__(f"sampan.cli.{module}", fromlist=[attribute]), attribute)
    return found


def _run(session: Session, key: str, words: list[str]) -> int:
    command = command_of(key)
    if session.words in _KEPT_TOGETHER:
        together.ready(session.words)
    try:
        return command.run(session, words)
    except flag_rules.Help:
        from sampan.cli.helptext import of_command

        text = of_command(command, session.words, spellings(key), _terminal_width() - 1)
        sys.stdout.write(text)
        return 0
    except UsageFailure as failure:
        see = "See" if failure.code == 1 and "at least" in failure.message else "Run"
        session.complain(
            f"{failure.message}\n\nUsage:  {PROGRAM} {session.words} {command.usage}\n\n"
            f"{see} '{PROGRAM} {session.words} --help' for more information"
        )
        return failure.code
    except Failure as failure:
        if failure.message:
            session.complain(failure.message)
        return failure.code
    except SampanError as error:
        text = describe(error)
        if command.fatal == 125:
            text = (
                f"{PROGRAM}: {text}\n\nRun '{PROGRAM} {session.words} --help' for more information"
            )
        session.complain(text)
        return command.fatal
    except BrokenPipeError:
        raise
    except OSError as error:
        session.complain(f"{PROGRAM}: {_of_system(error)}")
        return command.fatal


def _of_system(error: OSError) -> str:
    """The sentence for what the system refused to do with the user's own files."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{(error.strerror or str(error)).lower()}"


def describe(error: SampanError) -> str:
    """The sentence for an error: with Docker's prefix when the daemon said it."""
    from sampan.client.failures import answered

    return f"Error response from daemon: {error}" if answered(error) else str(error)


def spellings(key: str) -> list[str]:
    """All words by which the command ``key`` is known, the full ones first."""
    return [key, *sorted(alias for alias, found in ALIASES.items() if found == key)]


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return _WIDTH


def _group_help(group: str) -> str:
    from sampan.cli.helptext import of_group

    entries = [
        (key.partition(" ")[2], short)
        for key, (_, short) in COMMANDS.items()
        if key.startswith(f"{group} ") and key not in HIDDEN
    ]
    return of_group(group, GROUPS[group], sorted(entries))


def _unknown_group_flag(group: str, flag: str) -> str:
    name = flag.partition("=")[0]
    what = (
        f"unknown flag: {name}"
        if name.startswith("--")
        else f"unknown shorthand flag: '{name[1:2]}' in {name}"
    )
    return (
        f"{what}\n\nUsage:  {PROGRAM} {group} COMMAND\n\n"
        f"Run '{PROGRAM} {group} --help' for more information\n"
    )


_COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search")
_COMMON_LAST = ("version", "info")


def _program_help() -> str:
    from sampan.cli.helptext import of_program

    shorts = {alias: COMMANDS[key][1] for alias, key in ALIASES.items() if " " not in alias}
    shorts.update(
        {key: short for key, (_, short) in COMMANDS.items() if " " not in key and key not in HIDDEN}
    )
    common = [(name, shorts[name]) for name in (*_COMMON, *_COMMON_LAST) if name in shorts]
    others = sorted(
        (name, short)
        for name, short in shorts.items()
        if name not in _COMMON and name not in _COMMON_LAST
    )
    sections = [
        ("Common Commands", common),
        ("Management Commands", sorted(GROUPS.items())),
        ("Commands", others),
    ]
    return of_program(sections, GLOBAL_FLAGS, _terminal_width() - 1)
