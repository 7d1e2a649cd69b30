"""How registries are reached: endpoints, TLS, mirrors and proxies."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from sampan.errors import InvalidParameter, Unavailable
from sampan.image.reference import DEFAULT_DOMAIN

LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxy URLs for plain and TLS registries; ``no_proxy`` lists hosts reached directly."""

    http: str | None = None
    https: str | None = None
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Proxies:
        """Read HTTP_PROXY, HTTPS_PROXY and NO_PROXY in either case, as Docker's daemon does."""

        def value(name: str) -> str | None:
            return environ.get(name) or environ.get(name.lower()) or None

        bypass = (value("NO_PROXY") or "").split(",")
        return cls(
            http=value("HTTP_PROXY"),
            https=value("HTTPS_PROXY"),
            no_proxy=tuple(entry.strip() for entry in bypass if entry.strip()),
        )

    def for_url(self, url: str) -> str | None:
        """The proxy for ``url``, or None.  Loopback is never reached by a proxy."""
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if _is_loopback(parts.netloc):
            return None
        if any(_bypasses(entry, host, port) for entry in self.no_proxy):
            return None
        return self.https if parts.scheme == "https" else self.http


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Settings of the registry client.

    ``insecure``: hosts, ``host:port`` or networks (CIDR) whose certificate is not verified and
    which may speak plain HTTP; loopback always may.  ``mirrors``: base URLs asked first for the
    default domain.  ``default_endpoint``: base URL of the registry that serves the default domain
    (``docker.io`` in references); without one, only mirrors serve it.  ``certs_dir``: one folder
    for each ``host:port`` with ``*.crt`` (authorities) and ``*.cert`` + ``*.key`` (client).
    """

    insecure: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    default_endpoint: str | None = None
    certs_dir: Path = Path("/etc/docker/certs.d")
    proxies: Proxies = field(default_factory=Proxies.from_environment)
    max_downloads: int = 4
    max_uploads: int = 5
    attempts: int = 6
    backoff: float = 0.25
    chunk_size: int = 0
    """Bytes of an upload's chunk; 0 uploads each blob in one request."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One base URL (no trailing slash), whether its certificate is verified, and its host."""

    url: str
    verify: bool
    mirror: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")


def endpoints(config: RegistryConfig, domain: str, *, push: bool = False) -> list[Endpoint]:
    """Where ``domain`` is served, in the order to try.  Mirrors are not pushed to.

    Raises :class:`Unavailable` for the default domain when nothing serves it.
    """
    if domain != DEFAULT_DOMAIN:
        return _of_host(config, domain)
    found = [] if push else [_of_url(config, url, mirror=True) for url in config.mirrors]
    if config.default_endpoint:
        found.append(_of_url(config, config.default_endpoint))
    if not found:
        raise Unavailable(
            "no default registry is configured: name the registry in the reference "
            "(host:port/name) or set default-registry in the daemon's configuration"
        )
    return found


def is_insecure(config: RegistryConfig, host: str) -> bool:
    """Whether ``host`` (with or without port) may go without verified TLS."""
    if _is_loopback(host):
        return True
    name = urlsplit(f"//{host}").hostname or host
    return any(entry in (host, name) or _in_networks(name, (entry,)) for entry in config.insecure)


def tls_context(config: RegistryConfig, endpoint: Endpoint) -> ssl.SSLContext:
    """The TLS settings for ``endpoint`` from its folder under ``certs_dir``.

    Raises :class:`InvalidParameter` when a certificate there cannot be read.
    """
    return _tls_context(config.certs_dir / endpoint.host, endpoint.verify)


def _has_certificates(config: RegistryConfig, host: str) -> bool:
    return (config.certs_dir / host).is_dir()


@lru_cache(maxsize=64)
def _tls_context(folder: Path, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if not folder.is_dir():
        return context
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(cafile=path)
            elif path.suffix == ".cert":
                context.load_cert_chain(path, path.with_suffix(".key"))
        except (OSError, ssl.SSLError) as exc:
            raise InvalidParameter(f"cannot read the certificate {path}: {exc}") from exc
    return context


def _of_host(config: RegistryConfig, host: str) -> list[Endpoint]:
    tls, plain = Endpoint(f"https://{host}", False), Endpoint(f"http://{host}", False)
    if not is_insecure(config, host):
        return [Endpoint(f"https://{host}", True)]
    if not _is_loopback(host):
        # TLS goes first, so that no password is sent plain to a registry that has TLS.
        return [tls, plain]
    if _has_certificates(config, host):
        return [Endpoint(f"https://{host}", True)]
    # On loopback nobody listens in, and a registry there is mostly plain.
    return [plain, tls]


def _of_url(config: RegistryConfig, url: str, *, mirror: bool = False) -> Endpoint:
    base = url.rstrip("/")
    if "://" not in base:
        return _of_host(config, base)[0]
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise InvalidParameter(
            f"invalid registry address {url!r}: it must be http(s)://host[:port]"
        )
    return Endpoint(base, not is_insecure(config, parts.netloc), mirror)


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or host
    return name == "localhost" or _in_networks(name, LOOPBACK)


def _in_networks(host: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for text in networks:
        try:
            if address in ipaddress.ip_network(text, strict=False):
                return True
        except ValueError:
            continue
    return False


def _bypasses(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    name, _, wanted_port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
    if wanted_port and wanted_port != str(port):
        return False
    if _in_networks(host, (name,)):
        return True
    suffix = name.removeprefix("*").lstrip(".")
    return host == suffix or host.endswith("." + suffix)
