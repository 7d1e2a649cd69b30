"""The flags of ``sampan hub serve``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sampan.errors import InvalidParameter
from sampan.hub.config import HubConfig, Upstream, Webhook

_UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidParameter(f"{message}\nSee '{self.prog} --help'.")


def parse(words: Sequence[str]) -> HubConfig:
    """Read the flags.  Raises InvalidParameter; ``--help`` prints and raises SystemExit."""
    given = _parser().parse_args(list(words))
    host, port = _address(given.listen)
    if bool(given.tls_cert) != bool(given.tls_key):
        raise InvalidParameter("--tls-cert and --tls-key go together")
    return HubConfig(
        root=given.root,
        host=host,
        port=port,
        public_url=given.public_url,
        storage_url=given.storage,
        storage_options=dict(_pair(text, "--storage-option") for text in given.storage_option),
        redirects=given.redirects,
        database_url=given.database,
        anonymous=given.anonymous,
        htpasswd=given.htpasswd,
        tls_certificate=given.tls_cert,
        tls_key=given.tls_key,
        upload_seconds=_duration(given.upload_age),
        grace_seconds=_duration(given.gc_grace),
        collect_seconds=_duration(given.gc_interval),
        quota_bytes=_size(given.quota),
        immutable_tags=tuple(given.immutable_tag),
        retention_days=given.retention_days,
        webhooks=tuple(_webhook(text) for text in given.webhook),
        upstreams=tuple(_upstream(text) for text in given.pull_through),
        title=given.title,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sampan hub serve",
        description="Serve a registry with search and a web page.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", default="127.0.0.1:5000", metavar="HOST:PORT", help="address to listen on")
    add("--root", type=Path, default=Path("/var/lib/sampan-hub"), metavar="DIR",
        help="folder of the database and the blobs")  # fmt: skip
    add("--anonymous", choices=("none", "pull", "push"), default="pull",
        help="what people without an account may do")  # fmt: skip
    add("--public-url", default="", metavar="URL", help="how clients reach the hub, if by a proxy")
    add("--title", default="sampan hub", help="name shown on the web page")
    add("--htpasswd", type=Path, metavar="FILE", help="more users, with bcrypt passwords")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate chain (read again on SIGHUP)")
    add("--tls-key", type=Path, metavar="FILE", help="private key")
    add("--storage", default="", metavar="URL", help="object store for blobs: s3://bucket/prefix")
    add("--storage-option", action="append", default=[], metavar="NAME=VALUE",
        help="option of the object store, as endpoint, region, access_key_id")  # fmt: skip
    add("--redirects", action="store_true", help="send pulls to the object store by signed URLs")
    add("--database", default="", metavar="URL", help="postgresql://… for several hub processes")
    add("--quota", default="0", metavar="SIZE", help="most bytes in one repository (0: no limit)")
    add("--immutable-tag", action="append", default=[], metavar="GLOB",
        help="tags that never move once pushed")  # fmt: skip
    add("--retention-days", type=int, default=0, metavar="N",
        help="remove tags that were not pushed for N days (0: never)")  # fmt: skip
    add("--upload-age", default="24h", metavar="TIME", help="when abandoned uploads are removed")
    add("--gc-grace", default="24h", metavar="TIME", help="how long unused blobs are kept")
    add("--gc-interval", default="1h", metavar="TIME", help="how often garbage is collected")
    add("--webhook", action="append", default=[], metavar="URL[,secret=S][,events=push+delete]",
        help="address that is told of changes")  # fmt: skip
    add("--pull-through", action="append", default=[], metavar="PREFIX=URL",
        help="fetch repositories under PREFIX from another registry when missing")  # fmt: skip
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidParameter(f"invalid address {text!r}: it must be HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidParameter(f"invalid {flag} {text!r}: it must be NAME=VALUE")
    return name, value


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", text.strip().lower())
    if match is None:
        raise InvalidParameter(f"invalid size {text!r}: it must be a number with k, m, g or t")
    return int(match[1]) * _UNITS[match[2]]


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise InvalidParameter(f"invalid time {text!r}: it must be a number with s, m, h or d")
    return float(match[1]) * _SECONDS[match[2]]


def _webhook(text: str) -> Webhook:
    url, *options = text.split(",")
    given = dict(_pair(option, "--webhook option") for option in options)
    events = tuple(given.pop("events", "push+delete").split("+"))
    secret = given.pop("secret", "")
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"invalid webhook {url!r}: it must be an http or https URL")
    if given or not set(events) <= {"push", "delete"}:
        raise InvalidParameter(f"invalid webhook {text!r}: it has secret=… and events=push+delete")
    return Webhook(url, secret, events)


def _upstream(text: str) -> Upstream:
    prefix, url = _pair(text, "--pull-through")
    if not url.startswith(("http://", "https://")):
        raise InvalidParameter(f"invalid registry {url!r}: it must be an http or https URL")
    return Upstream(prefix.strip("/"), url.rstrip("/"))
