"""``login`` and ``logout``."""

from __future__ import annotations

import os
import sys

from sampan.cli import configfile, credentials
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.references import DEFAULT_REGISTRY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def _server(arguments: list[str]) -> str:
    if not arguments or arguments[0] in ("docker.io", "index.docker.io"):
        return DEFAULT_REGISTRY
    if arguments[0] == DEFAULT_REGISTRY:
        return DEFAULT_REGISTRY
    return arguments[0].removeprefix("https://").removeprefix("http://").partition("/")[0]


def login(session: Session, options: Options, arguments: list[str]) -> int:
    """Check credentials with the registry and keep them."""
    server = _server(arguments)
    user, password = options["username"], options["password"]
    if options["password-stdin"]:
        if options.given("password"):
            raise Failure(
                "conflicting options: cannot specify both --password and --password-stdin"
            )
        if not user:
            raise Failure("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    elif password:
        session.complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    known = {} if user and password else credentials.lookup(session, server)
    stored = not user and bool(known)
    if stored:
        session.say("Authenticating with existing credentials...")
        request = known
    else:
        user, password = _ask(user, password)
        request = {"username": user, "password": password, "serveraddress": server}
    answer = session.api.post("/auth", json=request) or {}
    token = answer.get("IdentityToken") or ""
    if not stored or token:
        _keep(session, server, {**request, **({"identitytoken": token} if token else {})})
    session.say(
        f"\n{answer.get('Status') or 'Login Succeeded'}"
        if stored
        else str(answer.get("Status") or "Login Succeeded")
    )
    return 0


def _ask(user: str, password: str) -> tuple[str, str]:
    if user and password:
        return user, password
    if not sys.stdin.isatty():
        raise Failure("Error: Cannot perform an interactive login from a non TTY device")
    if not user:
        sys.stdout.write("Username: ")
        sys.stdout.flush()
        user = sys.stdin.readline().strip()
        if not user:
            raise Failure("Error: Non-null Username Required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
        if not password:
            raise Failure("Error: Password Required")
    return user, password


def _keep(session: Session, server: str, found: dict[str, Any]) -> None:
    from sampan import wirejson

    has_config = os.path.exists(f"{session.config_dir}/config.json")
    helper = credentials.helper_of(session.config, server) if has_config else ""
    token = found.get("identitytoken")
    if helper:
        entry = {
            "ServerURL": server,
            "Username": credentials.TOKEN_USER if token else found["username"],
            "Secret": token or found["password"],
        }
        credentials.ask_helper(helper, "store", wirejson.dumps(entry))
        return
    from binascii import b2a_base64

    pair = f"{found.get('username', '')}:{'' if token else found.get('password', '')}"
    kept = {"auth": b2a_base64(pair.encode(), newline=False).decode()}
    if token:
        kept["identitytoken"] = token
    configfile.change(
        session.config_dir, lambda config: config.setdefault("auths", {}).update({server: kept})
    )
    session.complain(
        f"\nWARNING! Your credentials are stored unencrypted in '{session.config_dir}/config.json'.\n"
        "Configure a credential helper to remove this warning.\n"
    )


def logout(session: Session, options: Options, arguments: list[str]) -> int:
    """Forget credentials."""
    server = _server(arguments)
    has_config = os.path.exists(f"{session.config_dir}/config.json")
    config = session.config if has_config else {}
    helper = credentials.helper_of(config, server)
    known = server in (config.get("auths") or {})
    if not helper and not known:
        session.say(f"Not logged in to {server}")
        return 0
    session.say(f"Removing login credentials for {server}")
    if helper:
        credentials.ask_helper(helper, "erase", server)
    if known:
        configfile.change(session.config_dir, lambda config: config["auths"].pop(server, None))
    return 0


LOGIN = Command(
    "[OPTIONS] [SERVER]",
    "Authenticate to a registry.\nDefaults to the default registry if no server is specified.",
    login,
    (
        Flag("password", "string", "Password or Personal Access Token (PAT)", "p"),
        Flag("password-stdin", "", "Take the Password or Personal Access Token (PAT) from stdin"),
        Flag("username", "string", "Username", "u"),
    ),
    most=1,
)
LOGOUT = Command(
    "[SERVER]",
    "Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
    logout,
    most=1,
)
