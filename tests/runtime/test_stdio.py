"""A process's streams on their way through the keeper."""

from __future__ import annotations

import fcntl
import os
import threading

from sampan.runtime.flood import CHUNK, Flood
from sampan.runtime.loop import Loop
from sampan.runtime.stdio import Stdio

MILLISECOND = 1_000_000


def test_a_single_stream_that_writes_without_a_pause_is_a_flood() -> None:
    out, other = os.pipe()
    try:
        flood = Flood()
        for now in range(100):
            flood.saw(out, 1, 4096, now * MILLISECOND)
        assert flood.rises
        assert fcntl.fcntl(out, fcntl.F_GETPIPE_SZ) > CHUNK
        assert flood.chunk(out) > CHUNK
        flood.saw(out, 1, CHUNK, 100 * MILLISECOND)
        assert not flood.rises, "who reads more slowly than is written need not wait for more"
        flood.saw(out, 1, 4096, 200 * MILLISECOND)
        assert not flood.rises, "a pause ends it"
    finally:
        os.close(out)
        os.close(other)


def test_two_streams_at_once_are_read_without_delay() -> None:
    flood = Flood()
    for now in range(1000):
        flood.saw(1000 + now % 2, 1 + now % 2, 4096, now)
        assert not flood.rises


def test_a_flood_arrives_whole_and_in_fewer_pieces_than_it_was_written() -> None:
    loop = Loop()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    piece, count = b"x" * 4096, 4000
    got: dict[int, int] = {1: 0, 2: 0}
    reads = 0

    def on_output(stream: int, data: bytes, _: int) -> None:
        nonlocal reads
        reads += 1
        got[stream] += len(data)

    stdio = Stdio(
        loop,
        outputs={out_read: 1, err_read: 2},
        stdin=None,
        terminal=None,
        once=False,
        on_output=on_output,
        on_detach=lambda: None,
    )

    def write() -> None:
        for _ in range(count):
            os.write(out_write, piece)
        os.write(err_write, b"end")
        os.close(out_write)
        os.close(err_write)

    writer = threading.Thread(target=write)
    writer.start()
    while got[2] < 3 or got[1] < len(piece) * count:
        loop.step()
    writer.join()
    stdio.process_ended(lambda: None, loop.stop)
    assert got == {1: len(piece) * count, 2: 3}
    assert reads < count / 4


def test_what_others_write_on_is_not_waited_for() -> None:
    """A process has ended, and has left one that fills the pipe as fast as it is read."""
    loop = Loop()
    out_read, out_write = os.pipe()
    got = 0

    def on_output(_stream: int, data: bytes, _at: int) -> None:
        nonlocal got
        got += len(data)
        os.write(out_write, bytes(CHUNK))

    stdio = Stdio(
        loop,
        outputs={out_read: 1},
        stdin=None,
        terminal=None,
        once=True,
        on_output=on_output,
        on_detach=lambda: None,
    )
    capacity = fcntl.fcntl(out_write, fcntl.F_GETPIPE_SZ)
    os.write(out_write, bytes(capacity))
    drained: list[int] = []
    stdio.process_ended(lambda: drained.append(got), lambda: None)
    assert drained == [capacity]
    os.close(out_write)
