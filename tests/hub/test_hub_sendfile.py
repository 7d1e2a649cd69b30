"""Parts of files reach a socket whole, by either way of sending."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.hub import sendfile

Fill = Callable[[socket.socket, int, int, int], int]
FILLS = pytest.mark.parametrize("fill", [sendfile._fill, sendfile._fill_mapped])


def receive(connection: socket.socket, into: bytearray) -> None:
    while data := connection.recv(1 << 16):
        into += data


@FILLS
@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 1),
        (1, 5_000_000),
        (4095, 4097),
        (sendfile.WINDOW_BYTES - 1, sendfile.WINDOW_BYTES + 1),
        (0, 5_000_000),
    ],
)
def test_a_part_arrives(fill: Fill, start: int, end: int, tmp_path: Path) -> None:
    data = random.Random(7).randbytes(5_000_000)
    (tmp_path / "file").write_bytes(data)
    file = os.open(tmp_path / "file", os.O_RDONLY)
    ours, theirs = socket.socketpair()
    got = bytearray()
    reader = threading.Thread(target=receive, args=(theirs, got))
    reader.start()
    try:
        ours.setblocking(False)
        position = start
        while position < end:
            position += fill(ours, file, position, end)
    finally:
        ours.close()
        reader.join()
        theirs.close()
        os.close(file)
    assert got == data[start:end]


@FILLS
def test_a_client_that_takes_nothing_holds_no_thread(fill: Fill, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(5_000_000))
    file = os.open(tmp_path / "file", os.O_RDONLY)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert 0 < fill(ours, file, 0, 5_000_000) < 5_000_000
        assert fill(ours, file, 0, 5_000_000) == 0
    os.close(file)


@FILLS
def test_a_file_that_was_cut_is_an_error(fill: Fill, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(5000))
    file = os.open(tmp_path / "file", os.O_RDONLY)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="shorter"):
        ours.setblocking(False)
        position = 0
        while position < 20_000:
            position += fill(ours, file, position, 20_000)
    os.close(file)
