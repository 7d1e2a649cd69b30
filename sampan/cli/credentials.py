"""Registry credentials: the client's configuration and its helper programs."""

from __future__ import annotations

import os

from sampan import wirejson
from sampan.cli.failure import Failure
from sampan.cli.references import registry_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.session import Session

TOKEN_USER = "<token>"
NO_CREDENTIALS = "credentials not found in native keychain"


def header(session: Session, image: str) -> dict[str, str]:
    """The request header with the credentials for the registry of ``image``."""
    found = lookup(session, registry_of(image))
    return {"X-Registry-Auth": encode(found)}


def encode(credentials: dict[str, Any]) -> str:
    """Credentials as the API takes them: URL-safe base64 of JSON."""
    from binascii import b2a_base64

    raw = b2a_base64(wirejson.dumps(credentials).encode(), newline=False).decode()
    return raw.replace("+", "-").replace("/", "_")


def lookup(session: Session, registry: str) -> dict[str, Any]:
    """The credentials for a registry, or an empty object."""
    if not os.path.exists(f"{session.config_dir}/config.json"):
        return {}
    config = session.config
    helper = helper_of(config, registry)
    if helper:
        return _from_helper(helper, registry)
    auths = config.get("auths") or {}
    for key, entry in auths.items():
        if _host(key) == _host(registry) and isinstance(entry, dict):
            return _from_entry(entry, registry)
    return {}


def helper_of(config: dict[str, Any], registry: str) -> str:
    """The credential helper configured for a registry, or an empty string."""
    helpers = config.get("credHelpers") or {}
    return str(helpers.get(registry) or config.get("credsStore") or "")


def _host(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _from_entry(entry: dict[str, Any], registry: str) -> dict[str, Any]:
    if entry.get("identitytoken"):
        return {"identitytoken": entry["identitytoken"], "serveraddress": registry}
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        from binascii import Error, a2b_base64

        try:
            decoded = a2b_base64(entry["auth"]).decode()
        except (Error, UnicodeDecodeError):
            raise Failure(f"the credentials for {registry} in config.json are malformed") from None
        user, _, password = decoded.rstrip("\0").partition(":")
    if not user:
        return {}
    return {"username": user, "password": password, "serveraddress": registry}


def ask_helper(helper: str, action: str, given: str) -> str:
    """Run ``docker-credential-HELPER ACTION``; its output.

    :raises Failure: it is missing, or it refused.
    """
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, action], input=given, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Failure(
            f"error getting credentials - err: the credential helper {program} is not installed"
        ) from None
    if done.returncode:
        raise Failure(f"error getting credentials - err: {(done.stdout or done.stderr).strip()}")
    return done.stdout


def _from_helper(helper: str, registry: str) -> dict[str, Any]:
    try:
        found = wirejson.loads(ask_helper(helper, "get", registry))
    except Failure as failure:
        if NO_CREDENTIALS in failure.message:
            return {}
        raise
    if found.get("Username") == TOKEN_USER:
        return {"identitytoken": found.get("Secret"), "serveraddress": registry}
    return {
        "username": found.get("Username"),
        "password": found.get("Secret"),
        "serveraddress": registry,
    }
