"""Settings of one hub process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Anonymous = Literal["none", "pull", "push"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of pushes and deletions, signed with ``secret`` (HMAC-SHA256)."""

    url: str
    secret: str = ""
    events: tuple[str, ...] = ("push", "delete")


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry that misses are fetched from: ``prefix`` of repositories here → there."""

    prefix: str
    url: str
    username: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """Another registry that gets, or as a mirror's source gives, a copy of the repositories whose
    name matches ``pattern`` (glob)."""

    pattern: str
    url: str
    username: str = ""
    password: str = ""


@dataclass(frozen=True, slots=True)
class HubConfig:
    """How a hub runs.

    ``root`` holds the database and, without ``storage_url``, the blobs.  ``storage_url`` puts
    blobs into an object store (``s3://bucket/prefix``), ``database_url`` the records into
    PostgreSQL.  ``public_url`` is how clients reach the hub when a proxy stands before it.
    ``anonymous``: what someone without an account may do.  ``upload_seconds``: age at which an
    abandoned upload is collected; ``grace_seconds``: how long a blob that no manifest names is
    kept, so that a push in progress does not lose it.  ``quota_bytes``: per repository, 0 for
    none.  ``immutable_tags``: glob patterns of tags that are never moved.  ``account_rate`` and
    ``anonymous_rate``: requests a minute of one account, and of one address without an account,
    0 for no limit.  ``trusted_proxies``: addresses or networks whose ``X-Forwarded-For`` is
    believed.  ``mirror_seconds``: pause between two rounds over the repositories of ``mirrors``.
    ``trusted_keys``: files of public keys (PEM) whose signatures are shown as verified.
    """

    root: Path
    host: str = "127.0.0.1"
    port: int = 5000
    public_url: str = ""
    storage_url: str = ""
    storage_options: dict[str, str] = field(default_factory=dict)
    redirects: bool = False
    database_url: str = ""
    anonymous: Anonymous = "pull"
    htpasswd: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    upload_seconds: float = 24 * 3600
    grace_seconds: float = 24 * 3600
    collect_seconds: float = 3600
    quota_bytes: int = 0
    immutable_tags: tuple[str, ...] = ()
    retention_days: int = 0
    webhooks: tuple[Webhook, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    replicas: tuple[Replica, ...] = ()
    mirrors: tuple[Replica, ...] = ()
    mirror_seconds: float = 300
    logins_per_minute: int = 30
    account_rate: int = 0
    anonymous_rate: int = 0
    trusted_proxies: tuple[str, ...] = ()
    trusted_keys: tuple[Path, ...] = ()
    log_requests: bool = False
    title: str = "sampan hub"
