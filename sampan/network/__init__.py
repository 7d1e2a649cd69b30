"""Bridges, addresses, published ports and names.

The vocabulary, which is Docker's:

*network*
    A named set of subnets that containers can be on.  The driver says how it is made: ``bridge``
    (a kernel bridge with an address as the gateway, masqueraded), ``macvlan`` and ``ipvlan``
    (directly on a link of the host), ``host`` and ``null`` (the predefined ``host`` and ``none``).
*pool*
    One subnet of a network, with the gateway, the range handed out, and reserved addresses.
*endpoint*
    A running container on a network: addresses, MAC address, names.  The record of an endpoint is
    also the record of its addresses, so that an address is taken exactly as long as it exists.
*sandbox*
    All that a container's network namespace gets: interfaces, reserved ports, keeper services and
    the contents of its hosts and resolv.conf files.
*binding*
    A published port: host address and port to container port.
*shortcut*
    A program that hands frames from container to container without the bridge in between.
*firewall*
    The small interface behind which NAT and filter rules are programmed (nftables, iptables).

Life of a container on networks: ``prepare`` (records first, then rules), the keeper makes the
interfaces, ``release`` after the exit.  ``start`` makes the kernel agree with the records after any
crash.
"""
