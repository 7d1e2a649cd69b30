"""From what a user asks for to a network that can be made: options, pools, names.

Driver options are Docker's.  An option that the driver does not have is refused by name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from sampan.errors import Forbidden, InvalidParameter, NotFound
from sampan.linux.rtnetlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES
from sampan.network import ipam
from sampan.network.types import Network, NetworkConfig, Pool

DRIVERS = ("bridge", "macvlan", "ipvlan")
PREDEFINED = ("bridge", "host", "none")
# What `docker network create` sends for no driver at all, and for the names of modes.
_RESERVED_NAMES = (*PREDEFINED, "default", "container")

_BRIDGE = "com.docker.network.bridge."
OPTION_BRIDGE_NAME = _BRIDGE + "name"
OPTION_DEFAULT_BRIDGE = _BRIDGE + "default_bridge"
OPTION_ICC = _BRIDGE + "enable_icc"
OPTION_MASQUERADE = _BRIDGE + "enable_ip_masquerade"
OPTION_HOST_BINDING = _BRIDGE + "host_binding_ipv4"
OPTION_GATEWAY_MODE4 = _BRIDGE + "gateway_mode_ipv4"
OPTION_GATEWAY_MODE6 = _BRIDGE + "gateway_mode_ipv6"
OPTION_INHIBIT4 = _BRIDGE + "inhibit_ipv4"
OPTION_TRUSTED = _BRIDGE + "trusted_host_interfaces"
OPTION_HOST4 = "com.docker.network.host_ipv4"
OPTION_HOST6 = "com.docker.network.host_ipv6"
OPTION_SHORTCUT = "sampan.bridge.shortcut"
OPTION_MTU = "com.docker.network.driver.mtu"
OPTION_IFACE_PREFIX = "com.docker.network.container_iface_prefix"
OPTION_ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
OPTION_ENDPOINT_IFNAME = "com.docker.network.endpoint.ifname"

_OPTIONS = {
    "bridge": {
        OPTION_BRIDGE_NAME,
        OPTION_DEFAULT_BRIDGE,
        OPTION_ICC,
        OPTION_MASQUERADE,
        OPTION_HOST_BINDING,
        OPTION_GATEWAY_MODE4,
        OPTION_GATEWAY_MODE6,
        OPTION_INHIBIT4,
        OPTION_TRUSTED,
        OPTION_HOST4,
        OPTION_HOST6,
        OPTION_SHORTCUT,
        OPTION_MTU,
        OPTION_IFACE_PREFIX,
    },
    "macvlan": {"parent", "macvlan_mode", OPTION_MTU, OPTION_IFACE_PREFIX},
    "ipvlan": {"parent", "ipvlan_mode", "ipvlan_flag", OPTION_MTU, OPTION_IFACE_PREFIX},
}
_GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LINK_NAME = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """The options of a bridge network, parsed.

    ``modes`` are the gateway modes by IP version; ``sources`` the addresses that packets leave the
    host with, where those of the way out are not to be used; ``trusted`` the host's interfaces from
    which every port is reached.  ``shortcut``: frames between the containers need not pass the
    bridge.
    """

    icc: bool = True
    masquerade: bool = True
    host_binding: str = ""
    modes: dict[int, str] = field(default_factory=dict)
    inhibit4: bool = False
    trusted: tuple[str, ...] = ()
    sources: dict[int, str] = field(default_factory=dict)
    shortcut: bool = True
    mtu: int = 0
    prefix: str = "eth"


def bridge_options(options: dict[str, str]) -> BridgeOptions:
    """Raises :class:`InvalidParameter` naming the bad option."""
    modes = {}
    for version, option in ((4, OPTION_GATEWAY_MODE4), (6, OPTION_GATEWAY_MODE6)):
        modes[version] = options.get(option) or "nat"
        if modes[version] not in _GATEWAY_MODES:
            raise InvalidParameter(
                f"unknown gateway mode {modes[version]!r} of the option {option}: it is one of"
                f" {', '.join(_GATEWAY_MODES)}"
            )
    icc = _boolean(options, OPTION_ICC, True)
    return BridgeOptions(
        icc=icc,
        masquerade=_boolean(options, OPTION_MASQUERADE, True),
        # Docker shows 0.0.0.0 for "all addresses", which are those of IPv6 as well.
        host_binding=options.get(OPTION_HOST_BINDING, "").replace("0.0.0.0", ""),
        modes=modes,
        inhibit4=_boolean(options, OPTION_INHIBIT4, False),
        trusted=_trusted(options),
        sources=_sources(options),
        shortcut=icc and _boolean(options, OPTION_SHORTCUT, True),
        mtu=mtu_option(options),
        prefix=options.get(OPTION_IFACE_PREFIX, "eth"),
    )


def _trusted(options: dict[str, str]) -> tuple[str, ...]:
    names = tuple(filter(None, options.get(OPTION_TRUSTED, "").split(":")))
    for name in names:
        if not _LINK_NAME.fullmatch(name):
            raise InvalidParameter(
                f"invalid interface name {name!r} in the option {OPTION_TRUSTED}"
            )
    return names


def _sources(options: dict[str, str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for version, option in ((4, OPTION_HOST4), (6, OPTION_HOST6)):
        if options.get(option):
            address = ipam.parse_address(options[option])
            if address.version != version:
                raise InvalidParameter(f"{address} in the option {option} is not IPv{version}")
            found[version] = str(address)
    return found


def mtu_option(options: dict[str, str]) -> int:
    text = options.get(OPTION_MTU, "0")
    if not text.isdigit() or not (text == "0" or 68 <= int(text) <= 65535):
        raise InvalidParameter(f"invalid MTU {text!r}: it is a number from 68 to 65535")
    return int(text)


def _boolean(options: dict[str, str], key: str, default: bool) -> bool:
    text = options.get(key)
    if text is None:
        return default
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidParameter(f"invalid value {text!r} of the option {key}: it is true or false")


def check_name(config: NetworkConfig) -> None:
    if config.name in _RESERVED_NAMES:
        raise Forbidden(f"operation is not permitted on predefined {config.name} network")
    if not _NAME.fullmatch(config.name):
        raise InvalidParameter(
            f"invalid network name {config.name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )


def check(config: NetworkConfig) -> None:
    """Refuse what cannot be: names, drivers, options, IPAM drivers."""
    if config.driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{config.driver}" network is allowed')
    if config.driver not in DRIVERS:
        raise NotFound(
            f"error looking up network plugin {config.driver}:"
            f' plugin "{config.driver}" not found (drivers: {", ".join(DRIVERS)})'
        )
    if config.ipam_driver not in ("", "default"):
        raise NotFound(f"IPAM driver {config.ipam_driver!r} not found: only default is supported")
    if config.ipam_options:
        name = next(iter(config.ipam_options))
        raise InvalidParameter(f"the default IPAM driver has no option {name!r}")
    if not config.enable_ipv4 and not config.enable_ipv6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    for option in config.options:
        if option not in _OPTIONS[config.driver]:
            raise InvalidParameter(f"the driver {config.driver} has no option {option!r}")
    if config.driver == "bridge":
        modes = bridge_options(config.options).modes
        if "isolated" in modes.values() and not config.internal:
            raise InvalidParameter(
                "the gateway mode 'isolated' can only be used for an internal network"
            )
        name = config.options.get(OPTION_BRIDGE_NAME, "")
        if name and not _LINK_NAME.fullmatch(name):
            raise InvalidParameter(f"invalid bridge name {name!r}: it has 1 to 15 characters")
    else:
        mtu_option(config.options)
        link_mode(config.driver, config.options)


def link_mode(driver: str, options: dict[str, str]) -> str:
    """The mode of a macvlan (``bridge``) or ipvlan (``l2,bridge``: mode and flag) interface."""
    if driver == "macvlan":
        mode = options.get("macvlan_mode", "bridge")
        if mode not in MACVLAN_MODES:
            raise InvalidParameter(f"invalid macvlan_mode {mode!r}: {', '.join(MACVLAN_MODES)}")
        return mode
    mode, flag = options.get("ipvlan_mode", "l2"), options.get("ipvlan_flag", "bridge")
    if mode not in IPVLAN_MODES:
        raise InvalidParameter(f"invalid ipvlan_mode {mode!r}: {', '.join(IPVLAN_MODES)}")
    if flag not in IPVLAN_FLAGS:
        raise InvalidParameter(f"invalid ipvlan_flag {flag!r}: {', '.join(IPVLAN_FLAGS)}")
    return f"{mode},{flag}"


def define(
    config: NetworkConfig,
    *,
    bases: Sequence[tuple[str, int]],
    ula: str,
    own: Sequence[ipam.IPNetwork],
    host: Sequence[ipam.IPNetwork],
) -> Network:
    """The network with its pools chosen and its id.

    ``bases`` are the default pools, ``ula`` the prefix (/48) of our IPv6 networks, ``own`` the
    subnets of the other networks and ``host`` those that the host knows: an explicit subnet may be
    one of the latter (a macvlan on the LAN is) but not of the former.
    """
    pools = [pool for pool in config.pools if pool.subnet]
    versions = {ipam.parse_subnet(pool.subnet).version for pool in pools}
    if 6 in versions and not config.enable_ipv6:
        raise InvalidParameter("an IPv6 subnet needs IPv6 enabled on the network (--ipv6)")
    for pool in pools:
        other = ipam.overlapping(str(ipam.parse_subnet(pool.subnet)), own)
        if other is not None and config.driver == "bridge":
            raise Forbidden(
                f"invalid pool request: Pool overlaps with other one on this address space"
                f" ({pool.subnet} and {other})"
            )
    for pool in config.pools:
        if not pool.subnet and (pool.gateway or pool.ip_range or pool.aux_addresses):
            raise InvalidParameter("a gateway, IP range or auxiliary address needs a subnet")
    if config.enable_ipv4 and 4 not in versions:
        pools.insert(0, Pool(subnet=ipam.free_subnet(bases, [*own, *host])))
    if config.enable_ipv6 and 6 not in versions:
        pools.append(Pool(subnet=ipam.free_subnet([(ula, 64)], [*own, *host])))
    identity = secrets.token_hex(32)
    bridge = ""
    if config.driver == "bridge":
        bridge = config.options.get(OPTION_BRIDGE_NAME) or f"br-{identity[:12]}"
    return Network(
        id=identity,
        name=config.name,
        driver=config.driver,
        created=now(),
        enable_ipv4=config.enable_ipv4,
        enable_ipv6=config.enable_ipv6,
        internal=config.internal,
        attachable=config.attachable,
        pools=[ipam.complete_pool(pool) for pool in pools],
        options=dict(config.options),
        labels=dict(config.labels),
        bridge=bridge,
        config_from=config.config_from,
    )


def configuration(config: NetworkConfig) -> Network:
    """A network that is nothing but the configuration of others."""
    if config.internal or config.attachable:
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator"
            " fields like [ ingress | internal | attachable | scope ] are not supported."
        )
    if config.config_from:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    for pool in config.pools:
        if pool.subnet:
            ipam.complete_pool(pool)
    return Network(
        id=secrets.token_hex(32),
        name=config.name,
        driver="null",
        created=now(),
        enable_ipv4=config.enable_ipv4,
        enable_ipv6=config.enable_ipv6,
        ipam_driver=config.ipam_driver,
        ipam_options=dict(config.ipam_options),
        pools=list(config.pools),
        options=dict(config.options),
        labels=dict(config.labels),
        config_only=True,
    )


def configured(config: NetworkConfig, source: Network) -> NetworkConfig:
    """The wish with the configuration of ``source``, which it names."""
    if not source.config_only:
        raise Forbidden(f"{source.name} is not a configuration network")
    if (
        config.enable_ipv6
        or config.labels
        or config.options
        or config.pools
        or config.ipam_options
        or config.ipam_driver not in ("", "default")
    ):
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a"
            " configuration network"
        )
    return msgspec.structs.replace(
        config,
        config_from=source.name,
        enable_ipv4=source.enable_ipv4,
        enable_ipv6=source.enable_ipv6,
        ipam_driver=source.ipam_driver,
        ipam_options=source.ipam_options,
        pools=source.pools,
        options=source.options,
        labels=source.labels,
    )


def predefined(name: str, driver: str) -> Network:
    """The networks ``host`` and ``none``."""
    return Network(id=secrets.token_hex(32), name=name, driver=driver, created=now())


def unique_prefix(seed: str) -> str:
    """A unique local IPv6 prefix (RFC 4193) that is the same for the same seed."""
    digest = hashlib.sha256(seed.encode()).digest()
    return str(ipaddress.IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48)))


def check_mac(mac: str) -> str:
    """A unicast MAC address in canonical form."""
    if not _MAC.fullmatch(mac):
        raise InvalidParameter(f"invalid MAC address: {mac}")
    canonical = mac.lower().replace("-", ":")
    if int(canonical[:2], 16) & 1 or canonical == "00:00:00:00:00:00":
        raise InvalidParameter(f"invalid MAC address: {mac} is not a unicast address")
    return canonical


def now() -> str:
    nanoseconds = time.time_ns()
    seconds = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z"
