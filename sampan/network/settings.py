"""The daemon's part of the configuration of networks."""

from __future__ import annotations

import hashlib

import msgspec

DEFAULT_RUN_DIR = "/run/sampan"


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``bridge_name`` and ``table_name`` default to ``sampan0`` and ``sampan`` for the default run
    directory and to names derived from the run directory otherwise, so that several daemons share a
    machine.  ``bip`` is the default bridge's address in CIDR notation; chosen from the pools when
    empty; ``fixed_cidr`` is the part of its subnet that containers get addresses of (all of it when
    empty).  ``address_pools`` are ``(base, prefix length of a network)``.  ``mtu`` 0 takes that of
    the link with the default route, at most 1500.  ``firewall`` is ``nftables``, ``iptables`` or
    empty for what the kernel has.  ``shortcuts``: containers' frames to each other need not pass
    the bridge.  ``system_bus`` is the socket by which firewalld is asked; empty: it is not.
    """

    run_dir: str
    bridge_name: str = ""
    table_name: str = ""
    bip: str = ""
    fixed_cidr: str = ""
    mtu: int = 0
    address_pools: list[tuple[str, int]] = []
    default_host_ip: str = ""
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    ip_forward: bool = True
    icc: bool = True
    shortcuts: bool = True
    firewall: str = ""
    system_bus: str = ""
    resolv_conf: str = "/etc/resolv.conf"
    hosts_file: str = "/etc/hosts"

    @property
    def mark(self) -> str:
        """Eight characters that stand for the run directory; empty for the default one."""
        if self.run_dir.rstrip("/") == DEFAULT_RUN_DIR:
            return ""
        return hashlib.sha256(self.run_dir.rstrip("/").encode()).hexdigest()[:8]

    @property
    def bridge(self) -> str:
        """The name of the default network's bridge."""
        return self.bridge_name or (f"sampan-{self.mark}" if self.mark else "sampan0")

    @property
    def table(self) -> str:
        """The name of the nftables table (and the prefix of iptables chains)."""
        return self.table_name or (f"sampan-{self.mark}" if self.mark else "sampan")
