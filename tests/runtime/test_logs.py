"""Writing and reading logs: lines, rotation, tails, bounds and following."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time_ns
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import Conflict
from sampan.runtime.logs import Entry, read
from sampan.runtime.logs.decode import parse_rfc3339
from sampan.runtime.logs.writer import open_writer, rfc3339
from sampan.runtime.types import LogConfig

Driver = Literal["local", "json-file"]
DRIVERS: tuple[Driver, ...] = ("local", "json-file")


async def collect(config: LogConfig, **options: Any) -> list[Entry]:
    return [entry async for entry in read(config, **options)]


def config_for(path: Path, driver: Driver, **options: Any) -> LogConfig:
    return LogConfig(driver=driver, path=str(path / "log"), **options)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_lines_of_both_streams(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver)
    writer = open_writer(config)
    writer.write(1, b"one\ntw", 10)
    writer.write(2, b"error\n", 20)
    writer.write(1, b"o\r\nrest", 30)
    writer.close()
    assert await collect(config) == [
        Entry(10, 1, b"one\n"),
        Entry(20, 2, b"error\n"),
        Entry(30, 1, b"two\r\n"),
        Entry(30, 1, b"rest", True),
    ]
    assert [entry.data for entry in await collect(config, stdout=False)] == [b"error\n"]
    assert [entry.time for entry in await collect(config, since=20, until=20)] == [20]
    assert [entry.data for entry in await collect(config, tail=2)] == [b"two\r\n", b"rest"]
    assert await collect(config, tail=0) == []


@pytest.mark.parametrize("driver", DRIVERS)
async def test_rotation(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver, max_size=1000, max_file=3)
    writer = open_writer(config)
    for number in range(100):
        writer.write(1, b"line %03d\n" % number, number)
    writer.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    lines = [entry.data for entry in await collect(config)]
    assert lines[-1] == b"line 099\n"
    assert lines == [b"line %03d\n" % number for number in range(100 - len(lines), 100)]
    assert [entry.data for entry in await collect(config, tail=30)] == lines[-30:]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_following_across_rotation(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver, max_size=2000, max_file=5)
    writer = open_writer(config)
    writer.write(1, b"line 0\n", 0)
    alive = True
    received: list[bytes] = []

    async def follower() -> None:
        async for entry in read(config, follow=True, running=lambda: alive):
            received.append(entry.data)

    task = asyncio.create_task(follower())
    for number in range(1, 300):
        writer.write(1, b"line %d\n" % number, number)
        if number % 10 == 0:
            while len(received) < number - 20:  # noqa: ASYNC110
                await asyncio.sleep(0)
    writer.close()
    alive = False
    async with asyncio.timeout(10):
        await task
    assert received == [b"line %d\n" % number for number in range(300)]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("lines", [True, False])
async def test_going_on_after_an_entry(tmp_path: Path, driver: Driver, lines: bool) -> None:
    """The clock jumps to and fro: only the name of an entry tells where it is."""
    config = config_for(tmp_path, driver, max_size=400, max_file=4)
    writer = open_writer(config)
    times = [1000 + number if number % 7 < 4 else 500 - number for number in range(1, 100)]
    for number, time in enumerate(times):
        writer.write(1 + number % 2, b"%d\n" % number * 2, time)
    writer.close()
    whole = await collect(config, lines=lines)
    assert 6 < len(whole) < 198  # the first are gone
    kept = [time for time in times if time in {entry.time for entry in whole}]
    for time in kept:
        first = next(index for index, entry in enumerate(whole) if entry.time == time)
        options = {"lines": lines, "since": 10**9, "tail": 1, "after": time}
        assert await collect(config, **options) == whole[first:]
    assert await collect(config, lines=lines, after=times[0]) == whole
    errors = [entry for entry in whole if entry.stream == 2]
    last = await collect(config, lines=lines, stdout=False, after=errors[-1].time)
    assert last == [entry for entry in errors if entry.time == errors[-1].time]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_comes_is_new_whatever_the_clock_says(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver)
    writer = open_writer(config)
    writer.write(1, b"early\n", 10)
    writer.write(1, b"late\n", 30)
    writer.write(1, b"set back\n", 11)
    assert [entry.data for entry in await collect(config, until=20)] == [b"early\n", b"set back\n"]
    alive = True
    entries = read(config, follow=True, since=20, running=lambda: alive)
    assert (await anext(entries)).data == b"late\n"
    pending = asyncio.ensure_future(anext(entries))
    while not pending.done():
        writer.write(1, b"new\n", 12)
        await asyncio.wait({pending}, timeout=0.1)
    assert pending.result().data == b"new\n"
    alive = False
    writer.close()
    await entries.aclose()


async def test_following_a_silent_container_ends_when_its_time_is_over(tmp_path: Path) -> None:
    config = config_for(tmp_path, "local")
    writer = open_writer(config)
    writer.write(1, b"early\n", 10)
    async with asyncio.timeout(10):
        for until in (20, time_ns() + 200_000_000):
            entries = await collect(config, follow=True, until=until, running=lambda: True)
            assert [entry.data for entry in entries] == [b"early\n"]
            assert time_ns() > until
    writer.close()


async def test_a_torn_frame_is_dropped(tmp_path: Path) -> None:
    config = config_for(tmp_path, "local")
    writer = open_writer(config)
    writer.write(1, b"good\n", 1)
    writer.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b"\x50\0\0\0\x01torn")
    assert [entry.data for entry in await collect(config)] == [b"good\n"]
    writer = open_writer(config)
    writer.write(1, b"after\n", 2)
    writer.close()
    assert [entry.data for entry in await collect(config)] == [b"good\n", b"after\n"]
    assert [entry.data for entry in await collect(config, tail=1)] == [b"after\n"]


async def test_frames_without_lines(tmp_path: Path) -> None:
    config = config_for(tmp_path, "local", max_size=100)
    writer = open_writer(config)
    writer.write(1, b"one\ntwo\nth", 1)
    writer.write(2, b"x\n", 2)
    writer.write(1, b"ree\n" * 10, 3)
    writer.close()
    entries = await collect(config, lines=False)
    assert [entry.data for entry in entries] == [b"one\ntwo\nth", b"x\n", b"ree\n" * 10]


async def test_records_without_lines(tmp_path: Path) -> None:
    config = config_for(tmp_path, "json-file")
    writer = open_writer(config)
    writer.write(1, b"one\ntwo\n", 1)
    writer.write(2, b"x\n", 2)
    writer.write(1, b"three", 3)
    writer.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"log":"lo\n')
    whole = [Entry(1, 1, b"one\ntwo\n"), Entry(2, 2, b"x\n"), Entry(3, 1, b"three")]
    assert [entry[:3] for entry in await collect(config)][1:] == [
        (1, 1, b"two\n"),
        *(entry[:3] for entry in whole[1:]),
    ]
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes()[: -len(b'{"log":"lo\n')])
    assert await collect(config, lines=False) == whole


async def test_none_cannot_be_read() -> None:
    with pytest.raises(Conflict, match="does not support reading"):
        await collect(LogConfig(driver="none"))


async def test_docker_s_json_lines(tmp_path: Path) -> None:
    config = config_for(tmp_path, "json-file", attributes={"a": "b"})
    writer = open_writer(config)
    writer.write(2, b'quote " \xff\n', 1_700_000_000_123_456_789)
    writer.close()
    assert (tmp_path / "log").read_text() == (
        '{"log":"quote \\" \ufffd\\n","stream":"stderr","attrs":{"a":"b"},'
        '"time":"2023-11-14T22:13:20.123456789Z"}\n'
    )


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_times_survive(time: int) -> None:
    assert parse_rfc3339(rfc3339(time)) == time


def test_times_with_offsets() -> None:
    assert parse_rfc3339("1970-01-01T01:00:00+01:00") == 0
    assert parse_rfc3339("1969-12-31T23:59:59.5-00:01") == 59_500_000_000


@pytest.mark.parametrize("driver", DRIVERS)
@given(
    data=st.data(),
    chunks=st.lists(
        st.tuples(st.sampled_from([1, 2]), st.text("ab\n\r", min_size=1, max_size=30)), max_size=30
    ),
)
def test_any_output_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    driver: Driver,
    data: st.DataObject,
    chunks: list[tuple[int, str]],
) -> None:
    config = config_for(tmp_path_factory.mktemp("log"), driver)
    writer = open_writer(config)
    chunks = [*chunks, (1, "\n"), (2, "\n")]
    for time, (stream, text) in enumerate(chunks, 1):
        writer.write(stream, text.encode(), time)
    writer.close()
    entries = asyncio.run(collect(config))
    for stream in (1, 2):
        written = "".join(text for number, text in chunks if number == stream).encode()
        assert b"".join(entry.data for entry in entries if entry.stream == stream) == written
        lines = [entry.data for entry in entries if entry.stream == stream]
        assert all(line.count(b"\n") <= 1 for line in lines)
    count = data.draw(st.integers(0, len(entries) + 2))
    last = asyncio.run(collect(config, tail=count))
    assert last == (entries[-count:] if count else [])


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_reader_ends_although_the_writer_does_not(tmp_path: Path, driver: Driver) -> None:
    config = config_for(tmp_path, driver, max_size=3000, max_file=3)
    writer = open_writer(config)
    for number in range(50):
        writer.write(1, b"line %d\n" % number, number)
    for tail in (None, 5):
        found = []
        async for entry in read(config, tail=tail):
            found.append(entry.data)
            # Each line that is read makes more of them, in rotated files too.
            for number in range(30):
                writer.write(1, b"more %d\n" % number, number)
        assert 0 < len(found) <= (tail or 500)
    writer.close()
