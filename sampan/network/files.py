"""The contents of a container's hosts and resolv.conf files, as Docker writes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

EMBEDDED_RESOLVER = "127.0.0.11"

_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class ResolverConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The three directives of a resolv.conf that matter."""

    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []


def parse_resolv_conf(text: str) -> ResolverConfig:
    """What a resolv.conf says; of ``search`` and ``domain`` the last counts (resolv.conf(5))."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return ResolverConfig(servers=servers, search=search, options=options)


def is_loopback(server: str) -> bool:
    """Whether a resolver is only reachable on the host itself."""
    address, _, _ = server.partition("%")
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_ipv6(server: str) -> bool:
    return ":" in server


def resolv_conf(config: ResolverConfig) -> bytes:
    lines = [f"nameserver {server}" for server in config.servers]
    search = [domain for domain in config.search if domain != "."]
    if search:
        lines.append("search " + " ".join(search))
    if config.options:
        lines.append("options " + " ".join(config.options))
    return ("\n".join(lines) + "\n").encode()


def hosts(
    own: Sequence[tuple[str, str, str]], extra: Iterable[tuple[str, Sequence[str]]] = ()
) -> bytes:
    """A hosts file.

    ``own`` are the container's addresses as (address, host name, domain name or empty); the host
    name may have a domain of its own.  ``extra`` are further (address, names) lines, which come first.
    """
    lines = [f"{address}\t{' '.join(names)}" for address, names in extra]
    for address, name, domain in own:
        full = f"{name}.{domain}" if domain else name
        bare = full.partition(".")[0]
        lines.append(f"{address}\t{full} {bare}" if bare != full else f"{address}\t{full}")
    return (_HOSTS + "".join(line + "\n" for line in lines)).encode()


def host_network_hosts(host_file: bytes, extra: Iterable[tuple[str, Sequence[str]]]) -> bytes:
    """The hosts file of a container in the host's network: the host's own and ``extra``."""
    if host_file and not host_file.endswith(b"\n"):
        host_file += b"\n"
    lines = "".join(f"{address}\t{' '.join(names)}\n" for address, names in extra)
    return host_file + lines.encode()
