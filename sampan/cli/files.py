"""Streams to and from files, whole or not at all."""

from __future__ import annotations

import os
import sys

from sampan.cli.failure import Failure
from sampan.cli.pump import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

CHUNK = 256 << 10


def save_stream(chunks: Iterable[bytes], path: str) -> None:
    """Write ``chunks`` to ``path`` (by rename, so that it is never half there), or to standard
    output if it is empty."""
    if not path:
        sys.stdout.flush()
        for chunk in chunks:
            write_all(1, chunk)
        return
    if os.path.exists(path) and not os.path.isfile(path):
        # A device or a pipe is written as it is.
        try:
            with open(path, "wb") as file:
                file.writelines(chunks)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror}") from None
        return
    directory = os.path.dirname(path) or "."
    aside = os.path.join(directory, f".{os.path.basename(path)}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.writelines(chunks)
        os.replace(aside, path)
    except OSError as error:
        _discard(aside)
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    except BaseException:
        _discard(aside)
        raise


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The contents of ``file``."""
    while chunk := file.read(CHUNK):
        yield chunk


def open_input(path: str) -> BinaryIO:
    """The file at ``path`` for reading; Failure if there is none."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or str(error)).lower()}") from None
