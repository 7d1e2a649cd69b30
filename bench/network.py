"""The network's figures: starts, traffic against a bare veth pair, many containers."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

from . import traffic
from .engines import Chroot, CommandFailed, Engine
from .scenarios import IMAGE, Timed, four_at_a_time, scenario, sleeper

ROUNDS = 7
SECONDS = 0.7
PORT = 5001
MANY = 200


@scenario("network create, rm", group="network")
def create_network(engine: Engine) -> Iterator[Timed]:
    def call() -> None:
        engine.call("network", "create", "bench-net")
        engine.call("network", "rm", "bench-net")

    yield call


@scenario("network connect, disconnect", group="network")
def connect(engine: Engine) -> Iterator[Timed]:
    engine.call("network", "create", "bench-net")
    with sleeper(engine) as name:

        def call() -> None:
            engine.call("network", "connect", "bench-net", name)
            engine.call("network", "disconnect", "bench-net", name)

        yield call
    engine.call("network", "rm", "bench-net")


def more_than_none(engine: Engine, *flags: str) -> float:
    """By how much a run is longer than one without a network: medians, taken in turns."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(31):
        for networked in times:
            chosen = flags if networked else ("--network", "none")
            begin = time.perf_counter()
            engine.call("run", "--rm", *chosen, IMAGE, "true")
            if turn:
                times[networked].append(time.perf_counter() - begin)
    return 1000 * (statistics.median(times[True]) - statistics.median(times[False]))


# Taking the container down is part of what a command line sees, and a good part of it.
@scenario("what a bridge adds to run --rm", group="network")
def bridge_part(engine: Engine) -> Iterator[float]:
    yield more_than_none(engine)


@scenario("what a bridge and a port add to run --rm", group="network")
def port_part(engine: Engine) -> Iterator[float]:
    yield more_than_none(engine, "-p", "127.0.0.1:28080:80")


@scenario("the 191st to 200th run -d on a network / 1st to 10th", group="network", unit="x")
def flatness(engine: Engine) -> Iterator[float]:
    engine.call("network", "create", "bench-net")
    names = [f"flat-{n}" for n in range(MANY)]
    times = []
    try:
        for name in names:
            begin = time.perf_counter()
            flags = ("--network", "bench-net", "--name", name)
            engine.call("run", "-d", *flags, IMAGE, "sleep", "9999")
            times.append(time.perf_counter() - begin)
        yield statistics.median(times[-10:]) / statistics.median(times[:10])
    finally:
        engine.remove(*names)
        engine.call("network", "rm", "bench-net")


@scenario("200 containers and their network: rm", target=2000, group="network", runs=1)
def remove_many(engine: Engine) -> Iterator[Timed]:
    names = [f"many-{n}" for n in range(MANY)]

    def start() -> None:
        engine.call("network", "create", "bench-net")
        four_at_a_time(
            engine,
            [
                ["run", "-d", "--network", "bench-net", "--name", n, IMAGE, "sleep", "9999"]
                for n in names
            ],
        )

    def remove() -> None:
        engine.remove(*names)
        engine.call("network", "rm", "bench-net")

    remove.before = start  # type: ignore[attr-defined]
    yield remove


def pid(engine: Engine, name: str) -> int:
    return int(engine.call("inspect", "-f", "{{.State.Pid}}", name))


def home(engine: Engine) -> int:
    """A process in the network namespace that is the engine's host."""
    return engine.holder.pid if isinstance(engine, Chroot) else os.getpid()


def address(engine: Engine, name: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    found = engine.call("inspect", "-f", form, name).split()
    if not found:
        raise CommandFailed(f"{engine.name}: the container has no address")
    return found[0]


def lost(kind: str, client: int, server: int, address: str, port: int = PORT) -> float:
    """Percent by which traffic from ``client`` to ``server`` is worse than through a bare veth
    pair: medians of rounds taken in turns, on pinned processors."""
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    with traffic.bare_pair() as (near, far, bare), traffic.serving(server, PORT):
        with traffic.serving(far, PORT):
            for turn in range(ROUNDS + 1):
                pair = {
                    "ours": traffic.measure(kind, client, address, port, SECONDS),
                    "bare": traffic.measure(kind, near, bare, PORT, SECONDS),
                }
                for name in found if turn else ():
                    found[name].append(pair[name])
    ours, reference = (statistics.median(found[name]) for name in ("ours", "bare"))
    return 100 * (1 - ours / reference if kind == "stream" else ours / reference - 1)


def between(engine: Engine, kind: str) -> float:
    with sleeper(engine) as first, sleeper(engine) as second:
        return lost(kind, pid(engine, first), pid(engine, second), address(engine, second))


def published(engine: Engine, kind: str) -> float:
    with sleeper(engine, "-p", f"127.0.0.1:28081:{PORT}") as name:
        return lost(kind, home(engine), pid(engine, name), "127.0.0.1", 28081)


@scenario("throughput between containers, less than a veth", target=3, unit="%", group="network")
def between_stream(engine: Engine) -> Iterator[float]:
    yield between(engine, "stream")


@scenario("round trip between containers, more than a veth", target=3, unit="%", group="network")
def between_trips(engine: Engine) -> Iterator[float]:
    yield between(engine, "trips")


@scenario("throughput to a port, less than a veth", target=3, unit="%", group="network")
def published_stream(engine: Engine) -> Iterator[float]:
    yield published(engine, "stream")


@scenario("round trip to a port, more than a veth", target=3, unit="%", group="network")
def published_trips(engine: Engine) -> Iterator[float]:
    yield published(engine, "trips")
