"""Which firewall implementation serves this host."""

from __future__ import annotations

import logging

from sampan.errors import SampanError
from sampan.linux import nftables
from sampan.network import iptables
from sampan.network.firewall import Firewall
from sampan.network.ipt_firewall import IptablesFirewall
from sampan.network.nft import NftFirewall

log = logging.getLogger(__name__)

BACKENDS = ("", "nftables", "iptables")


def choose_firewall(name: str, wanted: str = "") -> Firewall:
    """The firewall whose table (or chains) bear ``name``: nftables where the kernel has it, unless
    ``wanted`` says otherwise."""
    if wanted not in BACKENDS:
        raise SampanError(f"unknown firewall backend {wanted!r}: use nftables or iptables")
    if wanted != "iptables":
        try:
            made = NftFirewall(name)
            made.intact()
            return made
        except OSError as error:
            if wanted or not nftables.is_unsupported(error):
                raise SampanError(f"nftables cannot be used: {error}") from error
            log.info("this kernel has no nf_tables: using iptables")
    if not iptables.available():
        raise SampanError(
            "this host has neither nf_tables in the kernel nor the iptables program: install"
            " iptables"
        )
    return IptablesFirewall(name)
