"""Multiplexed frames survive any division into chunks."""

from hypothesis import given
from hypothesis import strategies as st

from sampan.client.streams import Demultiplexer, demultiplex

FRAMES = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=40)), max_size=12
)


def encoded(frames):
    return b"".join(
        bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data for stream, data in frames
    )


@given(FRAMES, st.lists(st.integers(1, 17), min_size=1))
def test_any_chunks_give_the_same_bytes(frames, sizes):
    data = encoded(frames)
    chunks, position, turn = [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        chunks.append(data[position : position + size])
        position += size
        turn += 1
    for stream in (1, 2):
        got = b"".join(piece for number, piece in demultiplex(chunks) if number == stream)
        assert got == b"".join(piece for number, piece in frames if number == stream)


def test_empty_frames_are_passed_over():
    demultiplexer = Demultiplexer()
    assert demultiplexer.feed(encoded([(1, b"")]) + encoded([(2, b"x")])) == [(2, b"x")]


def test_views_are_cut_without_copies() -> None:
    data = bytearray(encoded([(1, b"one"), (2, b"two")]))
    pieces = Demultiplexer().feed(memoryview(data))
    assert [(stream, bytes(piece)) for stream, piece in pieces] == [(1, b"one"), (2, b"two")]
    assert all(piece.obj is data for _, piece in pieces)
