"""Which firewall implementation serves this host."""

from __future__ import annotations

from sampan.errors import SampanError
from sampan.network.firewall import Firewall
from sampan.network.nft import NftFirewall


def choose_firewall(name: str) -> Firewall:
    """The firewall whose table (or chains) bear ``name``."""
    try:
        return NftFirewall(name)
    except OSError as error:
        raise SampanError(f"this kernel has no nf_tables: {error}") from error
