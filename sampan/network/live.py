"""Changes inside the network namespace of a running container.

The calling thread enters the namespace and is back when a function returns; nothing else runs on
it meanwhile, because nothing here waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sampan.linux import rtnetlink
from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.runtime import interfaces
from sampan.runtime.interfaces import Interface


@contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """Be in the network namespace of this descriptor."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(netns_fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


@contextmanager
def entered(netns: Path) -> Iterator[int]:
    """Be in the network namespace of this file; gives its descriptor."""
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(there):
            yield there
    finally:
        os.close(there)


def add_interface(netns: Path, interface: Interface) -> None:
    """Make an interface of a running container, both ends."""
    there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        interfaces.create_host_side(interface, there)
    finally:
        os.close(there)
    with entered(netns), rtnetlink.open_socket() as route:
        interfaces.configure(route, [interface], loopback=False)


def remove_interface(netns: Path, interface: Interface) -> None:
    """Delete an interface of a running container, both ends."""
    with entered(netns), rtnetlink.open_socket() as route:
        route.request([rtnetlink.delete_link(interface.name, missing_ok=True)])


def set_default_routes(netns: Path, endpoints: Sequence[Interface]) -> None:
    """Point the default routes where the interfaces say."""
    with entered(netns), rtnetlink.open_socket() as route:
        messages = [
            message
            for interface in endpoints
            for message in interfaces.default_routes(interface, rtnetlink.index_of(interface.name))
        ]
        if messages:
            route.request(messages)
