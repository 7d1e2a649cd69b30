"""Live beside a firewall that drops what it does not know (Docker's, ufw's).

A packet must be accepted by every table that has a say.  Docker sets the policy of the FORWARD
chain to DROP, and nothing that our own table says can change that; it leaves the chain DOCKER-USER
to other programs.  Where the policy is DROP, one jump to a chain of ours goes there (or into
FORWARD where there is no Docker), which accepts what comes from our bridges, and answers and
translated connections to them.  What may pass at all is still for our own table to say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sampan.network import iptables
from sampan.network.firewall import BridgeRules

log = logging.getLogger(__name__)

_FILTER = "filter"
_GUEST_CHAIN = "DOCKER-USER"
_FORWARD = "FORWARD"
WATCHED_CHAINS = (_FORWARD, _GUEST_CHAIN)


class ForwardPolicy:
    """One chain named after us, present exactly where the policy calls for it."""

    def __init__(self, name: str) -> None:
        self._chain = name.upper()
        self._available = iptables.available()
        self._active = False

    def changed(self, bridges: Sequence[BridgeRules]) -> None:
        """Update our chain, if there is one, after a bridge was made or removed."""
        if self._active:
            self.refresh(bridges)

    def refresh(self, bridges: Sequence[BridgeRules]) -> None:
        """Look at the policy and make, update or remove our chain."""
        self._active = False
        for version in iptables.VERSIONS if self._available else ():
            try:
                self._refresh(version, bridges)
            except OSError as error:
                log.error("containers may not reach other networks: %s", error)

    def remove(self) -> None:
        for version in iptables.VERSIONS if self._available else ():
            lines = self._removal(iptables.listing(version, _FILTER))
            try:
                iptables.restore(version, {_FILTER: lines})
            except OSError as error:
                log.warning("the chain %s stays behind: %s", self._chain, error)

    def _refresh(self, version: int, bridges: Sequence[BridgeRules]) -> None:
        present = iptables.listing(version, _FILTER)
        if f"-P {_FORWARD} DROP" not in present:
            iptables.restore(version, {_FILTER: self._removal(present)})
            return
        self._active = True
        wanted = self._rules(bridges)
        parent = _GUEST_CHAIN if f"-N {_GUEST_CHAIN}" in present else _FORWARD
        jump = f"-A {parent} -j {self._chain}"
        ours = [line for line in present if line.startswith(f"-A {self._chain} ")]
        # The program prints states in an order of its own.
        if len(ours) == len(wanted) and jump in present and _names(ours) == _names(wanted):
            return
        lines = [f":{self._chain} - [0:0]", *wanted]
        if jump not in present:
            lines.append(f"-I {parent} 1 -j {self._chain}")
            log.info(
                "the host drops forwarded packets by default: adding %s to %s", self._chain, parent
            )
        iptables.restore(version, {_FILTER: lines})

    def _rules(self, bridges: Sequence[BridgeRules]) -> list[str]:
        lines = []
        for bridge in bridges:
            lines.append(f"-A {self._chain} -i {bridge.name} -j ACCEPT")
            lines.append(
                f"-A {self._chain} -o {bridge.name} -m conntrack"
                " --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"
            )
        return lines

    def _removal(self, present: Sequence[str]) -> list[str]:
        if f"-N {self._chain}" not in present:
            return []
        jumps = [line for line in present if line.endswith(f"-j {self._chain}")]
        return [
            *(line.replace("-A ", "-D ", 1) for line in jumps),
            f"-F {self._chain}",
            f"-X {self._chain}",
        ]


def _names(lines: Sequence[str]) -> list[str]:
    return [line.split()[3] for line in lines]
