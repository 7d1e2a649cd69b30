"""Reserved ports against everything else that wants them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from sampan.errors import Conflict, InvalidParameter
from sampan.network import ports
from sampan.network.types import PortBinding

ADDRESSES = ("0.0.0.0", "127.0.0.1", "::", "::1")


@pytest.fixture
def port() -> int:
    (found,) = ports.reserve([PortBinding(container_port=1, host_ip="127.0.0.1")])
    number = found.binding.host_port
    ports.release([found])
    return number


@pytest.fixture
def held(port: int) -> Iterator[int]:
    made = ports.reserve([PortBinding(container_port=80, host_port=port)])
    yield port
    ports.release(made)


def binding(port: int, **fields: object) -> PortBinding:
    return PortBinding(container_port=80, host_port=port, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("options", [(), ("SO_REUSEADDR",), ("SO_REUSEADDR", "SO_REUSEPORT")])
def test_nobody_gets_a_reserved_port(held: int, address: str, options: tuple[str, ...]) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as thief:
        for option in options:
            thief.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        with pytest.raises(OSError, match="in use"):
            thief.bind((address, held))
            thief.listen()


def test_an_unserved_reservation_refuses_connections(held: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", held), timeout=3)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_server_of_the_host_keeps_its_port(port: int, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family):
        with pytest.raises(Conflict, match="port is already allocated"):
            ports.reserve([binding(port)])
    ports.release(ports.reserve([binding(port)]))


def test_connections_of_an_earlier_server_do_not_stand_in_the_way(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)
        client.close()
    ports.release(ports.reserve([binding(port)]))


def test_all_or_none(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(Conflict):
            ports.reserve([binding(port), binding(server.getsockname()[1])])
    ports.release(ports.reserve([binding(port)]))


def test_a_range_gives_the_first_free_port(held: int) -> None:
    made = ports.reserve([binding(held, host_port_end=held + 20)])
    assert {r.binding.host_port for r in made} != {held}
    assert all(held < r.binding.host_port <= held + 20 for r in made)
    ports.release(made)


def test_tcp_and_udp_are_apart(held: int) -> None:
    ports.release(ports.reserve([binding(held, protocol="udp")]))


def test_fifty_at_once_and_one_gets_it(port: int) -> None:
    won: list[list[ports.Reservation]] = []
    lost: list[Conflict] = []
    barrier = threading.Barrier(50)

    def run() -> None:
        barrier.wait()
        try:
            won.append(ports.reserve([binding(port, host_ip="127.0.0.1")]))
        except Conflict as error:
            lost.append(error)

    threads = [threading.Thread(target=run) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 49)
    ports.release(won[0])


@pytest.mark.parametrize(
    "bad",
    [
        PortBinding(container_port=0),
        PortBinding(container_port=70000),
        PortBinding(container_port=80, protocol="icmp"),
        PortBinding(container_port=80, host_port=90, host_port_end=80),
        PortBinding(container_port=80, host_port=65535, host_port_end=70000),
        PortBinding(container_port=80, host_ip="nonsense"),
        PortBinding(container_port=80, host_port=8080, host_ip="192.0.2.250"),
    ],
)
def test_impossible(bad: PortBinding) -> None:
    with pytest.raises(InvalidParameter):
        ports.reserve([bad])
