"""Keep the kernel's rules as they should be, whatever other programs do to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sampan.errors import SampanError
from sampan.linux import conntrack
from sampan.network.backend import choose_firewall
from sampan.network.firewall import BridgeRules, Firewall, Port, Rules, Translation
from sampan.network.forward_policy import WATCHED_CHAINS, ForwardPolicy
from sampan.network.nft import NftFirewall

__all__ = ["WATCHED_CHAINS", "RuleKeeper"]

log = logging.getLogger(__name__)

# Programs that set up a firewall change many chains in a row.
_SETTLE_SECONDS = 0.5


class RuleKeeper:
    """The firewall of one daemon, made again when it is lost.

    ``current`` gives all that should hold.
    """

    def __init__(
        self,
        name: str,
        backend: str,
        current: Callable[[], Rules],
    ) -> None:
        self._name = name
        self._backend = backend
        self._current = current
        self._firewall: Firewall | None = None
        self._policy: ForwardPolicy | None = None
        self._settling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Make all rules.  Raises :class:`OSError`, :class:`SampanError`."""
        self._firewall = choose_firewall(self._name, self._backend)
        rules = self._current()
        self._firewall.rebuild(rules)
        if isinstance(self._firewall, NftFirewall):
            self._policy = ForwardPolicy(self._name)
            self._policy.refresh(rules.bridges)

    def stop(self, *, remove_all: bool) -> None:
        if self._settling is not None:
            self._settling.cancel()
        if remove_all and self._policy is not None:
            self._policy.remove()
        if self._firewall is not None:
            if remove_all:
                self._firewall.remove_all()
            self._firewall.close()
            self._firewall = None

    def differences(self) -> list[str]:
        """How the kernel's rules differ from what they should be."""
        if self._firewall is None:
            return ["the network manager is not started"]
        return self._firewall.differences(self._current())

    def rebuild(self) -> None:
        """Make all rules anew, in one step."""
        if self._firewall is None:
            raise SampanError("the network manager is not started")
        rules = self._current()
        self._firewall.rebuild(rules)
        if self._policy is not None:
            self._policy.refresh(rules.bridges)

    def add_bridge(self, bridge: BridgeRules) -> None:
        self._do(lambda firewall: firewall.add_bridge(bridge))
        self._bridges_changed()

    def remove_bridge(self, bridge: BridgeRules) -> None:
        self._do(lambda firewall: firewall.remove_bridge(bridge))
        self._bridges_changed()

    def publish(self, ports: Sequence[Port]) -> None:
        if ports:
            self._do(lambda firewall: firewall.publish(ports))
            _forget_flows(ports)

    def unpublish(self, ports: Sequence[Port]) -> None:
        if ports:
            self._do(lambda firewall: firewall.unpublish(ports))
            _forget_flows(ports)

    def _do(self, change: Callable[[Firewall], None]) -> None:
        """Make a change; if it fails because the rules are gone, make all rules as they should be,
        which the records already say with this change."""
        firewall = self._firewall
        if firewall is None:
            raise SampanError("the network manager is not started")
        try:
            change(firewall)
        except OSError:
            if firewall.intact():
                raise
            self.repair()

    def _bridges_changed(self) -> None:
        if self._policy is not None:
            self._policy.changed(self._current().bridges)

    def repair(self) -> None:
        """Make the rules again if another program has removed them."""
        firewall = self._firewall
        if firewall is not None and not firewall.intact():
            log.warning("the firewall rules were removed by another program: making them again")
            firewall.rebuild(self._current())

    def policy_changed(self) -> None:
        """Another program has made or changed a chain of :data:`WATCHED_CHAINS`."""
        if self._settling is None and self._policy is not None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(_SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        self._settling = None
        if self._policy is not None:
            self._policy.refresh(self._current().bridges)


def _forget_flows(published: Sequence[Port]) -> None:
    """Let the next datagram of every flow to these ports meet the rules as they are now."""
    ports = {
        port.host_port
        for port in published
        if isinstance(port, Translation) and port.protocol == "udp"
    }
    if not ports:
        return
    try:
        with conntrack.open_socket() as netfilter:
            for port in ports:
                conntrack.forget(netfilter, conntrack.UDP, port)
    except OSError as error:
        log.warning("old UDP flows go on as before: %s", error)
