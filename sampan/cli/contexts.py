"""``context``: named daemons."""

from __future__ import annotations

import os
import sys

from sampan import wirejson
from sampan.cli import configfile, table
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.ps import FORMAT_HELP
from sampan.cli.values import csv
from sampan.client import contexts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session
    from sampan.client.contexts import Context

DEFAULT = "default"
_DESCRIPTION = "Current DOCKER_HOST based configuration"


def _all(session: Session) -> list[Context]:
    from sampan.client.hosts import resolve

    own = resolve(None, context=DEFAULT).address
    address = os.environ.get("SAMPAN_HOST") or os.environ.get("DOCKER_HOST") or own
    return [
        contexts.Context(DEFAULT, address, _DESCRIPTION),
        *contexts.all_contexts(session.config_dir),
    ]


def _current(session: Session) -> str:
    if session.options["context"]:
        return str(session.options["context"])
    if os.environ.get("SAMPAN_HOST") or os.environ.get("DOCKER_HOST") or session.options["host"]:
        return DEFAULT
    chosen = os.environ.get("SAMPAN_CONTEXT") or os.environ.get("DOCKER_CONTEXT")
    return chosen or contexts.current(session.config_dir) or DEFAULT


def ls(session: Session, options: Options, arguments: list[str]) -> int:
    """List contexts."""
    current = _current(session)
    found = _all(session)
    if options["quiet"]:
        sys.stdout.write("".join(f"{context.name}\n" for context in found))
        return 0
    form = options["format"]
    if form and form != "table":
        return _formatted(found, current, form)
    cells = [["NAME", "DESCRIPTION", "DOCKER ENDPOINT", "ERROR"]]
    cells += [
        [f"{one.name} *" if one.name == current else one.name, one.description, one.address, ""]
        for one in found
    ]
    sys.stdout.write(table.simple(cells))
    return 0


def _formatted(found: list[Context], current: str, form: str) -> int:
    from sampan.gotemplate import Template, TemplateError

    try:
        template = None if form == "json" else Template(form)
        for one in found:
            value = {
                "Current": one.name == current,
                "Description": one.description,
                "DockerEndpoint": one.address,
                "Error": "",
                "Name": one.name,
            }
            line = wirejson.dumps(value) if template is None else template.render(value)
            sys.stdout.write(f"{line}\n")
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}") from None
    return 0


def show(session: Session, options: Options, arguments: list[str]) -> int:
    """Print the current context's name."""
    session.say(_current(session))
    return 0


def use(session: Session, options: Options, arguments: list[str]) -> int:
    """Make a context the current one."""
    name = arguments[0]
    if name != DEFAULT:
        _existing(session, name)

    def choose(config: dict[str, Any]) -> None:
        if name == DEFAULT:
            config.pop("currentContext", None)
        else:
            config["currentContext"] = name

    configfile.change(session.config_dir, choose)
    session.say(name)
    session.complain(f'Current context is now "{name}"')
    if os.environ.get("DOCKER_HOST"):
        session.complain(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use "
            f'"{name}", either set the global --context flag, or unset DOCKER_HOST environment '
            "variable."
        )
    return 0


def _existing(session: Session, name: str) -> Context:
    found = contexts.load(session.config_dir, name)
    if found is None:
        raise Failure(f'context "{name}": context not found')
    return found


def create(session: Session, options: Options, arguments: list[str]) -> int:
    """Create a context."""
    name = arguments[0]
    if name == DEFAULT:
        raise Failure('"default" is a reserved context name')
    if not name or not all(letter.isalnum() or letter in "_.+-" for letter in name):
        raise Failure(
            f'context name "{name}" is invalid, names are validated against regexp '
            '"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"'
        )
    if contexts.load(session.config_dir, name) is not None:
        raise Failure(f'context "{name}" already exists')
    endpoint, files = _endpoint(session, options)
    meta: dict[str, Any] = {
        "Name": name,
        "Metadata": {"Description": options["description"]} if options["description"] else {},
        "Endpoints": {"docker": endpoint},
    }
    folder = contexts.directory(session.config_dir, name)
    os.makedirs(folder, 0o755)
    if files:
        keys = f"{contexts.directory(session.config_dir, name, 'tls')}/docker"
        os.makedirs(keys, 0o700)
        for file, data in files.items():
            with open(f"{keys}/{file}", "wb") as out:
                os.fchmod(out.fileno(), 0o600)
                out.write(data)
    with open(f"{folder}/meta.json", "w", encoding="utf-8") as out:
        out.write(wirejson.dumps(meta))
    session.say(name)
    session.complain(f'Successfully created context "{name}"')
    return 0


def _endpoint(session: Session, options: Options) -> tuple[dict[str, Any], dict[str, bytes]]:
    if options["from"]:
        source = _existing(session, options["from"])
        files = {}
        for name in ("ca.pem", "cert.pem", "key.pem"):
            path = f"{source.tls_dir}/{name}"
            if source.tls_dir and os.path.exists(path):
                with open(path, "rb") as file:
                    files[name] = file.read()
        return {"Host": source.address, "SkipTLSVerify": source.skip_verify}, files
    from sampan.client.hosts import checked, resolve

    if not options["docker"]:
        return {"Host": resolve(None).address, "SkipTLSVerify": False}, {}
    found: dict[str, str] = {}
    for field in csv(options["docker"]):
        key, equals, value = field.partition("=")
        if not equals or key not in ("host", "ca", "cert", "key", "skip-tls-verify"):
            raise Failure(f'unrecognized config key: "{key}"')
        found[key] = value
    files = {}
    for key in ("ca", "cert", "key"):
        if found.get(key):
            try:
                with open(found[key], "rb") as file:
                    files[f"{key}.pem"] = file.read()
            except OSError as error:
                raise Failure(f"cannot read {found[key]}: {error.strerror}") from None
    if not found.get("host"):
        raise Failure("docker endpoint configuration is required: host=ADDRESS")
    skip = found.get("skip-tls-verify", "false").lower() in ("1", "t", "true")
    return {"Host": checked(found["host"]), "SkipTLSVerify": skip}, files


def rm(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove contexts."""
    import shutil

    current = contexts.current(session.config_dir)
    for name in arguments:
        if name == DEFAULT:
            raise Failure('context "default" cannot be removed')
        _existing(session, name)
        if name == current and not options["force"]:
            raise Failure(f"context {name!r} is in use, set -f flag to force remove")
        if name == current:
            configfile.change(session.config_dir, lambda config: config.pop("currentContext"))
        for kind in ("meta", "tls"):
            shutil.rmtree(contexts.directory(session.config_dir, name, kind), ignore_errors=True)
        session.say(name)
    return 0


def inspect(session: Session, options: Options, arguments: list[str]) -> int:
    """Print contexts in full."""
    found = []
    for name in arguments or [_current(session)]:
        one = _all(session)[0] if name == DEFAULT else _existing(session, name)
        built_in = name == DEFAULT
        folder = contexts.directory(session.config_dir, name)
        keys = contexts.directory(session.config_dir, name, "tls")
        material = sorted(os.listdir(one.tls_dir)) if one.tls_dir else []
        found.append(
            {
                "Name": name,
                "Metadata": {}
                if built_in or not one.description
                else {"Description": one.description},
                "Endpoints": {"docker": {"Host": one.address, "SkipTLSVerify": one.skip_verify}},
                "TLSMaterial": {"docker": material} if material else {},
                "Storage": {
                    "MetadataPath": "<IN MEMORY>" if built_in else folder,
                    "TLSPath": "<IN MEMORY>" if built_in else keys,
                },
            }
        )
    from sampan.cli.inspect import print_objects

    print_objects(found, options["format"])
    return 0


LS = Command(
    "[OPTIONS]",
    "List contexts",
    ls,
    (
        Flag("format", "string", FORMAT_HELP),
        Flag("quiet", "", "Only show context names", "q"),
    ),
    most=0,
)
SHOW = Command("", "Print the name of the current context", show, most=0)
USE = Command("CONTEXT", "Set the current context", use, least=1, most=1)
CREATE = Command(
    "[OPTIONS] CONTEXT",
    "Create a context",
    create,
    (
        Flag("description", "string", "Description of the context"),
        Flag("docker", "string", "The daemon's endpoint: host=URL[,ca=FILE,cert=FILE,key=FILE]"),
        Flag("from", "string", "Create context from a named context"),
    ),
    least=1,
    most=1,
)
RM = Command(
    "CONTEXT [CONTEXT...]",
    "Remove one or more contexts",
    rm,
    (Flag("force", "", "Force the removal of a context in use", "f"),),
    least=1,
)
INSPECT = Command(
    "[OPTIONS] [CONTEXT] [CONTEXT...]",
    "Display detailed information on one or more contexts",
    inspect,
    (Flag("format", "string", FORMAT_HELP, "f"),),
)
