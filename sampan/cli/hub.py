"""``hub serve``, ``hub check`` and ``hub password``: a registry."""

from __future__ import annotations

from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session
    from sampan.hub.config import Replica, Upstream, Webhook

DEFAULT_ROOT = "/var/lib/sampan-hub"


def serve(session: Session, options: Options, arguments: list[str]) -> int:
    """Serve until told to stop."""
    from sampan.hub.config import HubConfig
    from sampan.hub.server import run

    run(HubConfig(**_settings(options)))
    return 0


def check(session: Session, options: Options, arguments: list[str]) -> int:
    """Check what a hub keeps; 1 when something is wrong."""
    import asyncio

    from sampan.hub import maintenance
    from sampan.hub.config import HubConfig

    config = HubConfig(**_kept(options))
    well = asyncio.run(maintenance.check(config, repair=options["repair"], say=session.say))
    return 0 if well else 1


def password(session: Session, options: Options, arguments: list[str]) -> int:
    """Print a new password of a user."""
    import asyncio

    from sampan.hub import maintenance
    from sampan.hub.config import HubConfig

    config = HubConfig(**_kept(options))
    session.say(asyncio.run(maintenance.reset_password(config, arguments[0])))
    return 0


def _kept(options: Options) -> dict[str, Any]:
    """The settings that say where a hub keeps things."""
    from pathlib import Path

    return {
        "root": Path(options["root"]).absolute(),
        "storage_url": options["storage-url"],
        "storage_options": {
            name: _secret(value)
            for name, value in (_pair("storage-option", t) for t in options["storage-option"])
        },
        "database_url": _secret(options["database-url"]),
        "upstreams": tuple(_upstream(text) for text in options["pull-through"]),
    }


def _settings(options: Options) -> dict[str, Any]:
    from pathlib import Path

    host, _, port = options["listen"].rpartition(":")
    if not host or not port.isdecimal():
        raise Failure(f"cannot listen on {options['listen']!r}: it must be ADDRESS:PORT", 125)
    if options["anonymous"] not in ("none", "pull", "push"):
        raise Failure(
            f"invalid --anonymous {options['anonymous']!r}: it must be none, pull or push", 125
        )
    if bool(options["tls-certificate"]) != bool(options["tls-key"]):
        raise Failure("--tls-certificate and --tls-key must be given together", 125)
    try:
        quota = size(options["quota"]) if options["quota"] else 0
    except ValueError as error:
        raise Failure(f"invalid --quota: {error}", 125) from None

    def path(flag: str) -> Path | None:
        return Path(options[flag]) if options[flag] else None

    return {
        **_kept(options),
        "host": host.strip("[]"),
        "port": int(port),
        "public_url": options["public-url"],
        "redirects": options["redirects"],
        "log_requests": options["log-requests"],
        "webhooks": tuple(_webhook(text) for text in options["webhook"]),
        "mirrors": tuple(_mirror(text) for text in options["mirror"]),
        "replicas": tuple(_replica(text) for text in options["replicate"]),
        "anonymous": options["anonymous"],
        "htpasswd": path("htpasswd"),
        "tls_certificate": path("tls-certificate"),
        "tls_key": path("tls-key"),
        "quota_bytes": quota,
        "immutable_tags": tuple(options["immutable-tag"]),
        "account_rate": options["rate-limit"],
        "anonymous_rate": options["anonymous-rate-limit"],
        "trusted_keys": tuple(Path(text) for text in options["trusted-key"]),
        "trusted_proxies": tuple(options["trusted-proxy"]),
        "retention_days": options["retention-days"],
        "title": options["title"],
    }


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise Failure(f"invalid --{flag} {text!r}: it must be NAME=VALUE", 125)
    return name, value


def _secret(text: str) -> str:
    """``@FILE`` stands for the file's contents, which no list of processes shows."""
    if not text.startswith("@"):
        return text
    from pathlib import Path

    try:
        return Path(text[1:]).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read the secret {text[1:]}: {error}", 125) from None


def _replica(text: str) -> Replica:
    from sampan.hub.config import Replica

    return Replica(*_remote("replicate", "PATTERN", text))


def _mirror(text: str) -> Replica:
    from sampan.hub.config import Replica

    return Replica(*_remote("mirror", "PATTERN", text))


def _upstream(text: str) -> Upstream:
    from sampan.hub.config import Upstream

    prefix, *more = _remote("pull-through", "PREFIX", text)
    return Upstream(prefix.strip("/"), *more)


def _remote(flag: str, kind: str, text: str) -> tuple[str, str, str, str]:
    """What is before the ``=``, the address of a registry, a user name and a password."""
    rule, *more = text.split(",")
    name, url = _pair(flag, rule)
    given = dict(_pair(flag, option) for option in more)
    user, password = given.pop("user", ""), _secret(given.pop("password", ""))
    if given or not url.startswith(("http:", "https:")):
        raise Failure(
            f"invalid --{flag} {text!r}: it must be {kind}=URL[,user=NAME,password=TEXT]", 125
        )
    return name, url.rstrip("/"), user, password


def _webhook(text: str) -> Webhook:
    from sampan.hub.config import Webhook

    url, *more = text.split(",")
    given = dict(_pair("webhook", option) for option in more)
    events = tuple(given.pop("events", "push+delete").split("+"))
    secret = _secret(given.pop("secret", ""))
    if given or not set(events) <= {"push", "delete"} or not url.startswith(("http:", "https:")):
        raise Failure(
            f"invalid --webhook {text!r}: it must be URL[,secret=TEXT][,events=push+delete]", 125
        )
    return Webhook(url, secret, events)


_KEPT = (
    Flag("database-url", "string", "Keep the records in this PostgreSQL database"),
    Flag(
        "pull-through",
        "list",
        "Fetch what is missing under PREFIX from another registry: "
        "PREFIX=URL[,user=NAME,password=TEXT] (repeatable)",
    ),
    Flag("root", "string", "Directory of the database and the blobs", default=DEFAULT_ROOT),
    Flag(
        "storage-option",
        "list",
        "Option of the object store, as endpoint=URL or secret_access_key=@FILE (repeatable)",
    ),
    Flag("storage-url", "string", "Keep the blobs in this object store (s3://bucket/prefix)"),
)

SERVE = Command(
    "[OPTIONS]",
    "Serve a registry with search and a web page",
    serve,
    (
        *_KEPT,
        Flag(
            "anonymous",
            "string",
            "What someone without an account may do (none, pull, push)",
            default="pull",
        ),
        Flag(
            "anonymous-rate-limit",
            "uint",
            "Most requests a minute from one address without an account (default: no limit)",
        ),
        Flag("htpasswd", "string", "File of accounts, as htpasswd -B writes it"),
        Flag("immutable-tag", "list", "Pattern of tags that are never moved (repeatable)"),
        Flag("listen", "string", "Address and port to listen on", "l", "127.0.0.1:5000"),
        Flag("log-requests", "", "Log each request to the registry, as a line of JSON"),
        Flag(
            "mirror",
            "list",
            "Keep a copy of another registry's matching repositories: "
            "PATTERN=URL[,user=NAME,password=TEXT] (repeatable)",
        ),
        Flag("public-url", "string", "How clients reach the hub when a proxy stands before it"),
        Flag("quota", "string", "Most bytes a repository may hold (as 10g; default: no limit)"),
        Flag(
            "rate-limit",
            "uint",
            "Most requests a minute of one account (default: no limit)",
        ),
        Flag("redirects", "", "Send pulls to the object store by signed addresses"),
        Flag(
            "replicate",
            "list",
            "Copy matching repositories to another registry: "
            "PATTERN=URL[,user=NAME,password=TEXT] (repeatable)",
        ),
        Flag(
            "retention-days",
            "int",
            "Days after which tags that were not pushed again are removed, and what only they name",
        ),
        Flag("title", "string", "Name of the hub on its pages", default="sampan hub"),
        Flag("tls-certificate", "string", "File of the server's certificate"),
        Flag("tls-key", "string", "File of the server's key"),
        Flag(
            "trusted-key",
            "list",
            "File of a public key (PEM) whose signatures are shown as verified (repeatable)",
        ),
        Flag(
            "trusted-proxy",
            "list",
            "Address or network whose X-Forwarded-For is believed (repeatable)",
        ),
        Flag(
            "webhook",
            "list",
            "Tell this address of changes: URL[,secret=TEXT][,events=push+delete] (repeatable)",
        ),
    ),
    most=0,
)

CHECK = Command(
    "[OPTIONS]",
    "Check a hub's storage: every blob's digest, every record, abandoned uploads",
    check,
    (
        *_KEPT,
        Flag("repair", "", "Remove what is damaged, and what no record names"),
    ),
    most=0,
)

PASSWORD = Command(
    "[OPTIONS] USER",
    "Give a user of a hub a new password, and print it",
    password,
    _KEPT,
    least=1,
    most=1,
)
