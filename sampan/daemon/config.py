"""The daemon's settings: flags, then environment, then the configuration file, then defaults.

The file is JSON with the long flags' names as keys (``{"debug": true, "dns": ["10.0.0.2"]}``); an
option given both in the file and as a flag is refused, as two truths would be.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sampan.engine import cdi, logoptions
from sampan.engine.runtimes import OWN, RuntimeProgram
from sampan.errors import InvalidParameter
from sampan.runtime import cgroups
from sampan.runtime.cgroups import systemd
from sampan.runtime.cgroups.naming import CGROUPFS, DRIVERS, SYSTEMD, GroupNames
from sampan.runtime.cgroups.realtime import Realtime

DEFAULT_FILE = Path("/etc/sampan/daemon.json")
ENTITLEMENTS = ("security.insecure",)
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
STORAGE_DRIVERS = ("erofs", "overlay", "plain")
FIREWALLS = ("nftables", "iptables")


class AddressPool(msgspec.Struct, frozen=True):
    base: str
    size: int


class Settings(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """All settings of one daemon; the field names with dashes are flags and file keys."""

    state_dir: str = "/var/lib/sampan"
    run_dir: str = "/run/sampan"
    hosts: list[str] = []
    group: str = ""
    debug: bool = False
    log_level: str = "info"
    log_file: str = ""
    storage_driver: str = ""
    bridge: str = ""
    bip: str = ""
    fixed_cidr: str = ""
    bridge_shortcuts: bool = True
    firewall_backend: str = ""
    ip_forward: bool = True
    system_bus: str = "/run/dbus/system_bus_socket"
    mtu: int = 0
    icc: bool = True
    ip: str = ""
    default_address_pools: list[AddressPool] = []
    dns: list[str] = []
    dns_search: list[str] = []
    dns_opts: list[str] = []
    resolv_conf: str = "/etc/resolv.conf"
    default_registry: str = ""
    registry_mirrors: list[str] = []
    insecure_registries: list[str] = []
    certs_dir: str = "/etc/docker/certs.d"
    max_concurrent_downloads: int = 4
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 6
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    discard_blobs: bool = False
    max_layer_size: int = 100 << 30
    log_driver: str = "local"
    log_opts: dict[str, str] = {}
    journal_socket: str = logoptions.JOURNAL_SOCKET
    default_shm_size: int = 64 << 20
    cpu_rt_period: int = 0
    cpu_rt_runtime: int = 0
    default_stop_timeout: int = 10
    cgroup_parent: str = ""
    userns_remap: str = ""
    subid_dir: str = "/etc"
    runtimes: dict[str, RuntimeProgram] = {}
    default_runtime: str = OWN
    insecure_entitlements: list[str] = []
    exec_opts: list[str] = []
    cdi_spec_dirs: list[str] = msgspec.field(default_factory=lambda: list(cdi.DIRECTORIES))
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    labels: list[str] = []

    @property
    def state(self) -> Path:
        return Path(self.state_dir)

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def groups(self) -> GroupNames:
        """Where containers' control groups are."""
        return GroupNames(_cgroup_driver(self.exec_opts), self.cgroup_parent)

    @property
    def realtime(self) -> Realtime | None:
        """What the groups above containers are given."""
        given = Realtime(self.cpu_rt_period, self.cpu_rt_runtime)
        return given if any(given) else None

    @property
    def listen(self) -> list[str]:
        """The addresses to listen on."""
        return self.hosts or [f"unix://{self.run_dir}/sampan.sock"]


class Launch(msgspec.Struct, frozen=True):
    """How this process was started: what is not a setting of the daemon."""

    ready_fd: int | None = None


def _boolean(text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise argparse.ArgumentTypeError("it is true or false")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sampan daemon",
        description="Serve the Engine API and run containers.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config-file", default="", help=f"configuration file (default {DEFAULT_FILE})")
    add("--state-dir", help="directory of images, containers and volumes")
    add("--run-dir", help="directory of sockets and what must not outlive a boot")
    add("-H", "--host", dest="hosts", action="append", help="address to listen on (repeatable)")
    add("-G", "--group", help="group that owns the unix socket (default: docker or sampan)")
    add("-D", "--debug", action="store_true", help="log at level debug")
    add("-l", "--log-level", choices=LOG_LEVELS, help="log at this level and above")
    add("--log-file", help="write the log to this file (default: standard error)")
    add("-s", "--storage-driver", choices=STORAGE_DRIVERS, help="how root file systems are kept")
    add("-b", "--bridge", help="name of the default network's bridge")
    add("--bip", help="address of the default bridge, as 172.17.0.1/16")
    add("--fixed-cidr", help="part of the default bridge's subnet that containers get addresses of")
    add(
        "--default-address-pool",
        dest="default_address_pools",
        action="append",
        metavar="base=CIDR,size=BITS",
        help="where networks get their subnets from (repeatable)",
    )
    add(
        "--bridge-shortcuts",
        type=_boolean,
        help="whether frames between containers may pass by the bridge (true or false)",
    )
    add("--firewall-backend", choices=FIREWALLS, help="how ports are published (default: either)")
    add(
        "--ip-forward",
        type=_boolean,
        help="whether to let the host forward packets (true or false)",
    )
    add("--system-bus", help="socket of the system bus, where firewalld is found")
    add("--mtu", type=int, help="MTU of container networks")
    add("--ip", help="host address that ports are published on unless another is given")
    add(
        "--icc",
        type=_boolean,
        help="whether containers on the default bridge reach each other (true or false)",
    )
    add("--dns", action="append", help="name server for containers (repeatable)")
    add("--dns-search", action="append", help="search domain for containers (repeatable)")
    add("--dns-opt", dest="dns_opts", action="append", help="resolver option (repeatable)")
    add("--resolv-conf", help="file of the host's resolvers")
    add("--default-registry", help="base URL of the registry behind unqualified names")
    add("--registry-mirror", dest="registry_mirrors", action="append", help="mirror asked first")
    add("--insecure-registry", dest="insecure_registries", action="append", help="without TLS")
    add("--certs-dir", help="directory of registries' certificates")
    add("--max-concurrent-downloads", type=int, help="blobs that are downloaded at a time")
    add("--max-concurrent-uploads", type=int, help="blobs that are uploaded at a time")
    add("--max-download-attempts", type=int, help="attempts at a request that fails")
    add("--http-proxy", help="proxy to registries without TLS (default: HTTP_PROXY)")
    add("--https-proxy", help="proxy to registries (default: HTTPS_PROXY)")
    add("--no-proxy", help="hosts reached without a proxy, comma-separated (default: NO_PROXY)")
    add(
        "--discard-blobs",
        action="store_true",
        help="keep layers unpacked only; a push compresses them anew, under other digests",
    )
    add("--max-layer-size", type=int, help="bytes that a layer may unpack to")
    add("--log-driver", choices=logoptions.DRIVERS, help="default log driver")
    add("--log-opt", dest="log_opts", action="append", help="default log option, key=value")
    add("--journal-socket", help="where the journald log driver finds the journal")
    add("--cgroup-parent", help="control group (with systemd: slice) below which containers live")
    add(
        "--add-runtime",
        dest="runtimes",
        action="append",
        metavar="NAME=PATH",
        help="another OCI runtime that containers can be run by (repeatable)",
    )
    add(
        "--cdi-spec-dir",
        dest="cdi_spec_dirs",
        action="append",
        help="directory of CDI specifications (repeatable; default /etc/cdi and /var/run/cdi)",
    )
    add(
        "--allow-insecure-entitlement",
        dest="insecure_entitlements",
        action="append",
        choices=ENTITLEMENTS,
        help="what builds may ask for by --allow",
    )
    add(
        "--exec-opt", dest="exec_opts", action="append", help="native.cgroupdriver=cgroupfs|systemd"
    )
    add("--default-runtime", help="runtime of containers that name none (default sampan)")
    add(
        "--userns-remap",
        help="run containers in user namespaces with the subordinate ids of USER[:GROUP] or "
        "default (dockremap)",
    )
    add("--subid-dir", help="directory of the files subuid and subgid (default /etc)")
    add("--cpu-rt-period", type=int, help="realtime period of containers' parent groups, us")
    add("--cpu-rt-runtime", type=int, help="realtime that all containers have together, us")
    add("--default-shm-size", type=int, help="size of /dev/shm in bytes")
    add("--tls", action="store_true", help="use TLS on TCP")
    add("--tlsverify", action="store_true", help="use TLS and verify clients")
    add("--tlscacert", help="certificate of the authority that clients' certificates are from")
    add("--tlscert", help="the daemon's certificate")
    add("--tlskey", help="the daemon's key")
    add("--label", dest="labels", action="append", help="label of the daemon (repeatable)")
    add(
        "--ready-fd",
        type=int,
        default=None,
        help="write a line to this fd once requests are served",
    )
    return parser


def _from_file(path: str) -> dict[str, Any]:
    file = Path(path) if path else DEFAULT_FILE
    try:
        raw = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        if path:
            raise InvalidParameter(f"the configuration file {file} does not exist") from None
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidParameter(f"cannot read the configuration file {file}: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidParameter(f"the configuration file {file} does not hold a JSON object")
    return raw


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in (("SAMPAN_STATE_DIR", "state-dir"), ("SAMPAN_RUN_DIR", "run-dir")):
        if environ.get(name):
            found[key] = environ[name]
    if environ.get("SAMPAN_HOST"):
        found["hosts"] = [environ["SAMPAN_HOST"]]
    return found


def load(
    arguments: Sequence[str], environ: Mapping[str, str] = os.environ
) -> tuple[Settings, Launch]:
    """The settings in force for these command-line arguments and this environment.

    :raises InvalidParameter: an option that is unknown, malformed, or given twice.
    """
    given = vars(_parser().parse_args(arguments))
    file = _from_file(given.pop("config_file"))
    launch = Launch(given.pop("ready_fd"))
    if "log_opts" in given:
        pairs = [option.partition("=") for option in given["log_opts"]]
        given["log_opts"] = {key: value for key, _, value in pairs}
    if "default_address_pools" in given:
        pools = [_address_pool(option) for option in given["default_address_pools"]]
        given["default_address_pools"] = pools
    if "runtimes" in given:
        given["runtimes"] = dict(_runtime(option) for option in given["runtimes"])
    flags = {name.replace("_", "-"): value for name, value in given.items()}
    both = sorted(flags.keys() & file.keys())
    if both:
        raise InvalidParameter(
            f"these options are given both as flags and in the configuration file: {', '.join(both)}"
        )
    merged = {**file, **_from_environment(environ), **flags}
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid configuration: {error}") from None
    return _checked(settings), launch


def _runtime(option: str) -> tuple[str, dict[str, str]]:
    name, _, path = option.partition("=")
    if not name or not path:
        raise InvalidParameter(f"invalid --add-runtime {option!r}: it is NAME=PATH")
    return name, {"path": path}


def _address_pool(option: str) -> dict[str, str | int]:
    fields = dict(field.partition("=")[::2] for field in option.split(","))
    if fields.keys() != {"base", "size"} or not fields["size"].isdigit():
        raise InvalidParameter(
            f"invalid --default-address-pool {option!r}: it is base=CIDR,size=BITS"
        )
    return {"base": fields["base"], "size": int(fields["size"])}


def _check_address_pool(pool: AddressPool) -> None:
    try:
        network = ipaddress.ip_network(pool.base)
    except ValueError as error:
        raise InvalidParameter(f"invalid default-address-pools: {error}") from None
    if not network.prefixlen <= pool.size <= network.max_prefixlen - 2:
        raise InvalidParameter(
            f"invalid default-address-pools: networks of size {pool.size} cannot be made of"
            f" {pool.base}"
        )


def _cgroup_driver(options: Iterable[str]) -> str:
    """What ``native.cgroupdriver`` says; the last one counts.  Raises InvalidParameter."""
    driver = CGROUPFS
    for option in options:
        name, _, driver = option.partition("=")
        if name != "native.cgroupdriver":
            raise InvalidParameter(
                f"unknown exec-opt {name!r}: native.cgroupdriver is the only one"
            )
        if driver not in DRIVERS:
            raise InvalidParameter(
                f"unknown native.cgroupdriver {driver!r}: it is {' or '.join(DRIVERS)}"
            )
    return driver


def _check_groups(groups: GroupNames) -> None:
    try:
        groups.check(groups.parent)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None
    if groups.driver != SYSTEMD:
        return
    if cgroups.version() != 2:
        raise InvalidParameter(
            "exec-opt native.cgroupdriver=systemd needs control groups version 2: with version 1 "
            "systemd would undo the rules for containers' devices; use cgroupfs"
        )
    if not systemd.is_running():
        raise InvalidParameter(
            "exec-opt native.cgroupdriver=systemd: systemd is not this host's first process "
            f"(there is no {systemd.SOCKET}); use cgroupfs"
        )


def _checked(settings: Settings) -> Settings:
    if settings.log_level not in LOG_LEVELS:
        raise InvalidParameter(f"invalid log-level {settings.log_level!r}")
    if settings.storage_driver and settings.storage_driver not in STORAGE_DRIVERS:
        raise InvalidParameter(
            f"unknown storage-driver {settings.storage_driver!r}: "
            f"it must be one of {', '.join(STORAGE_DRIVERS)}"
        )
    if settings.firewall_backend not in ("", *FIREWALLS):
        raise InvalidParameter(
            f"unknown firewall-backend {settings.firewall_backend!r}: "
            f"it must be one of {', '.join(FIREWALLS)}"
        )
    for pool in settings.default_address_pools:
        _check_address_pool(pool)
    if settings.mtu and not 68 <= settings.mtu <= 65535:
        raise InvalidParameter(f"invalid mtu {settings.mtu}: it is a number from 68 to 65535")
    for name in settings.insecure_entitlements:
        if name not in ENTITLEMENTS:
            raise InvalidParameter(
                f"unknown entitlement {name!r} in insecure-entitlements: "
                f"it must be one of {', '.join(ENTITLEMENTS)}"
            )
    _check_groups(settings.groups)
    if not 0 <= settings.cpu_rt_runtime <= (settings.cpu_rt_period or 1_000_000):
        raise InvalidParameter(
            f"invalid cpu-rt-runtime {settings.cpu_rt_runtime}: it is at most the period"
        )
    logoptions.check(settings.log_driver, settings.log_opts)
    absolute = {
        "state_dir": str(Path(settings.state_dir).absolute()),
        "run_dir": str(Path(settings.run_dir).absolute()),
    }
    return msgspec.structs.replace(settings, **absolute)
