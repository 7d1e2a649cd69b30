"""Rotated log files that are compressed, under readers that go on and helpers that are killed."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.runtime.logs import Entry, compress, read
from sampan.runtime.logs.writer import Writer, open_writer
from sampan.runtime.types import LogConfig

Driver = Literal["local", "json-file"]
DRIVERS: tuple[Driver, ...] = ("local", "json-file")
pytestmark = pytest.mark.parametrize("driver", DRIVERS)


def config_for(path: Path, driver: Driver, **options: Any) -> LogConfig:
    return LogConfig(driver=driver, path=str(path / "log"), compress=True, **options)


def line(number: int) -> bytes:
    return b"line %06d\n" % number


def write(writer: Writer, numbers: range) -> None:
    for number in numbers:
        writer.write(1, line(number), number)


async def collect(config: LogConfig, **options: Any) -> list[Entry]:
    return [entry async for entry in read(config, **options)]


def settle(config: LogConfig) -> None:
    """Wait for the helpers, then compress what the last of them may have left."""
    directory = Path(config.path).parent
    deadline = time.monotonic() + 20
    while (directory / "log.part").exists() and time.monotonic() < deadline:
        compress.run(config.path, config.max_file)
        time.sleep(0.01)
    compress.run(config.path, config.max_file)


async def test_everything_is_read_from_compressed_files(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver, max_size=2000, max_file=4)
    writer = open_writer(config)
    write(writer, range(300))
    writer.close()
    settle(config)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log", "log.1.gz", "log.2.gz", "log.3.gz"]
    plain = gzip.decompress((tmp_path / "log.1.gz").read_bytes())
    assert 0 < len(plain) <= 2000
    entries = await collect(config)
    lines = [entry.data for entry in entries]
    assert len(lines) > 60
    assert lines == [line(number) for number in range(300 - len(lines), 300)]
    for count in (1, 30, len(lines) - 1, 1000):
        assert await collect(config, tail=count) == entries[-count:]
    middle = entries[len(entries) // 2].time
    assert await collect(config, since=middle, until=middle + 10) == [
        entry for entry in entries if middle <= entry.time <= middle + 10
    ]
    whole = b"".join([entry.data for entry in await collect(config, lines=False)])
    assert whole == b"".join(lines)


async def test_followers_lose_and_repeat_nothing(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver, max_size=2000, max_file=50)
    writer = open_writer(config)
    write(writer, range(1))
    alive = True
    received: dict[str, list[bytes]] = {"quick": [], "slow": []}

    async def follow(name: str, pause: float) -> None:
        async for entry in read(config, follow=True, running=lambda: alive):
            received[name].append(entry.data)
            if len(received[name]) % 50 == 0:
                await asyncio.sleep(pause)

    tasks = [asyncio.create_task(follow("quick", 0)), asyncio.create_task(follow("slow", 0.01))]
    for start in range(1, 1001, 50):
        write(writer, range(start, start + 50))
        await asyncio.sleep(0.002)
    writer.close()
    settle(config)
    alive = False
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    expected = [line(number) for number in range(1001)]
    assert received == {"quick": expected, "slow": expected}


@pytest.mark.parametrize("step", ["_compress", "_put_in_place", "replace", "unlink"])
async def test_a_helper_that_is_killed(tmp_path: Path, driver: Driver, step: str) -> None:
    """Nothing is lost or doubled, and the next one does what was left."""
    config = config_for(tmp_path, driver, max_size=2000, max_file=4)
    with_none = LogConfig(driver=driver, path=config.path, max_size=2000, max_file=4)
    writer = open_writer(with_none)
    write(writer, range(150))
    writer.close()
    before = await collect(config)

    def die(*_: object) -> None:
        os._exit(9)

    def helper() -> int:
        if not (pid := os.fork()):
            setattr(compress if step.startswith("_") else os, step, die)
            try:
                compress.run(config.path, config.max_file)
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert helper() == 9
    assert await collect(config) == before
    assert await collect(config, tail=100) == before[-100:]
    writer = open_writer(config)
    write(writer, range(150, 190))
    writer.close()
    settle(config)
    after = [entry.data for entry in await collect(config)]
    assert after == [line(number) for number in range(190 - len(after), 190)]
    assert len(after) > 60
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("log", "log.1.gz", "log.2.gz", "log.3.gz")
    ]


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.sampled_from(["write", "compress", "read", "some"]), max_size=40))
def test_in_whatever_order_it_happens(
    tmp_path_factory: pytest.TempPathFactory, driver: Driver, steps: list[str]
) -> None:
    """A reader that was begun at any time has what there was then, in whatever form it is now."""
    directory = tmp_path_factory.mktemp("log")
    config = config_for(directory, driver, max_size=400, max_file=30)
    written = 0

    async def go() -> None:
        nonlocal written
        readers = []
        for step in steps:
            if step == "write":
                writer = open_writer(config)
                write(writer, range(written, written + 10))
                writer.close()
                written += 10
            elif step == "compress":
                compress.run(config.path, config.max_file)
            elif step == "read" and written:
                reader = read(config)
                readers.append((reader, [await anext(reader)], written))
            elif step == "some":
                for reader, found, _ in readers:
                    for _ in range(7):
                        found += [entry async for entry in _one(reader)]
        for reader, found, count in readers:
            found += [entry async for entry in reader]
            assert [entry.data for entry in found] == [line(number) for number in range(count)]

    asyncio.run(go())
    settle(config)


async def _one(reader: Any) -> Any:
    try:
        yield await anext(reader)
    except StopAsyncIteration:
        return
