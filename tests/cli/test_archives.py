"""What a saved archive shows of its layers while it passes."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from sampan.cli.archives import by_layer

SIZES = {"a" * 64: 100_000, "b" * 64: 33_000, "c" * 64: 900}


class Rows:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def update(self, identifier: str, status: str, current: int = 0, total: int = 0) -> None:
        assert status == "Saving"
        self.seen.append((identifier, current, total))


def archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, size in [
            ("oci-layout", 30),
            *((f"blobs/sha256/{digest}", size) for digest, size in SIZES.items()),
            ("index.json", 40_000),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)))
    return stream.getvalue()


@pytest.mark.parametrize("piece", [1 << 20, 65536, 5000, 511, 7])
def test_rows_of_layers(piece: int) -> None:
    data, rows = archive(), Rows()
    chunks = (data[at : at + piece] for at in range(0, len(data), piece))
    screen: Any = rows
    assert b"".join(by_layer(chunks, screen)) == data
    assert list(dict.fromkeys(row for row, _, _ in rows.seen)) == ["a" * 12, "b" * 12]
    for digest in ("a" * 64, "b" * 64):
        steps = [(done, total) for row, done, total in rows.seen if row == digest[:12]]
        assert steps[-1] == (SIZES[digest], SIZES[digest]) and steps == sorted(steps)
