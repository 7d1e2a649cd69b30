"""The tar reader against Python's tarfile and GNU tar, and against damage."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.image import tar, tarwrite
from sampan.image.tar import BufferCursor, Entry, InvalidTar, StreamCursor

names = st.binary(min_size=1, max_size=300).filter(
    lambda name: b"\0" not in name and not name.endswith(b"/") and b"//" not in name
)
numbers = st.one_of(st.integers(0, 0o7777777), st.integers(0, 2**32 - 2))


@given(
    names,
    st.binary(max_size=2000),
    numbers,
    numbers,
    st.integers(0, 2**33),
    st.dictionaries(
        st.text("abcdefgh.", min_size=1, max_size=20).map(str.encode), st.binary(max_size=300)
    ),
)
def test_what_the_writer_writes_the_reader_reads(
    name: bytes, data: bytes, uid: int, gid: int, seconds: int, xattrs: dict[bytes, bytes]
) -> None:
    entry = Entry(name, tar.REGULAR, 0o4755, uid, gid, len(data), seconds * 10**9)
    entry.xattrs = {b"user." + key: value for key, value in xattrs.items()} or None
    archive = tarwrite.header(entry) + data + tarwrite.padding(len(data)) + tarwrite.END
    for cursor in (BufferCursor(archive), StreamCursor(io.BytesIO(archive))):
        (read,) = [
            (e.name, e.mode, e.uid, e.gid, e.mtime, e.xattrs, cursor.read(e.size))
            for e in tar.entries(cursor)
        ]
        assert read == (name, 0o4755, uid, gid, entry.mtime, entry.xattrs, data)


@given(names, st.binary(max_size=300).filter(lambda link: b"\0" not in link))
def test_tarfile_reads_what_the_writer_writes(name: bytes, link: bytes) -> None:
    archive = tarwrite.header(Entry(name, tar.SYMLINK, linkname=link)) + tarwrite.END
    (member,) = tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape")
    assert os.fsencode(member.name) == name.rstrip(b"/") or name.startswith(b"/")
    assert os.fsencode(member.linkname) == link


@given(st.binary(max_size=4096))
def test_noise_is_refused_or_read_but_never_fails_otherwise(noise: bytes) -> None:
    try:
        list(tar.entries(BufferCursor(noise)))
    except InvalidTar:
        pass


@given(st.data())
def test_a_flipped_byte_never_fails_otherwise(data: st.DataObject) -> None:
    archive = bytearray(tarwrite.header(Entry(b"x" * 150, size=600, xattrs={b"user.a": b"b"})))
    archive += bytes(1024) + tarwrite.END
    position = data.draw(st.integers(0, len(archive) - 1))
    archive[position] = data.draw(st.integers(0, 255))
    try:
        list(tar.entries(BufferCursor(bytes(archive))))
    except InvalidTar:
        pass


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "posix"])
def test_gnu_tar_archives(tmp_path: Path, format: str) -> None:
    tree = tmp_path / "tree"
    deep = tree / ("d" * 40) / ("e" * 40)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"hello")
    (tree / "link").symlink_to("d" * 40)
    if format != "v7":
        long = deep / ("f" * 90)
        if format != "ustar":
            long = deep / ("f" * 120)
        long.write_bytes(b"long")
        os.mkfifo(tree / "fifo")
    os.link(deep / "file", tree / "hard")
    subprocess.run(
        ["tar", "-C", tree, f"--format={format}", "-cf", tmp_path / "t.tar", "."], check=True
    )
    archive = (tmp_path / "t.tar").read_bytes()
    ours = [
        (os.fsdecode(e.name).rstrip("/"), e.type, e.mode, e.size, os.fsdecode(e.linkname))
        for e in tar.entries(BufferCursor(archive))
    ]
    theirs = [
        (
            m.name,
            m.type if m.type != b"\0" else b"0",
            m.mode,
            m.size if m.isreg() else 0,
            m.linkname,
        )
        for m in tarfile.open(fileobj=io.BytesIO(archive))
    ]
    assert ours == theirs
    assert len(ours) >= 6


@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files(tmp_path: Path, version: str) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for index in range(30):
            file.seek(index * 65536)
            file.write(bytes([index + 1]) * 4096)
        file.truncate(10 << 20)
    format = (
        ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    )
    subprocess.run(
        ["tar", "-C", tmp_path, *format, "-S", "-cf", tmp_path / "t.tar", "sparse"], check=True
    )
    cursor = StreamCursor(io.BytesIO((tmp_path / "t.tar").read_bytes()))
    content = bytearray(10 << 20)
    for entry in tar.entries(cursor):
        assert (entry.name, entry.size) == (b"sparse", 10 << 20)
        assert entry.sparse is not None
        for offset, length in entry.sparse:
            content[offset : offset + length] = cursor.read(length)
    assert bytes(content) == path.read_bytes()


def test_large_and_negative_numbers() -> None:
    block = bytearray(tarwrite.header(Entry(b"x")))
    block[124:136] = b"\x80" + (9 << 30).to_bytes(11, "big")
    block[136:148] = (-5).to_bytes(12, "big", signed=True)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    cursor = BufferCursor(bytes(block))
    entry = next(tar.entries(cursor))
    assert (entry.size, entry.mtime) == (9 << 30, -5 * 10**9)


@pytest.mark.parametrize("padding", [0, 1, 481])
def test_an_archive_may_end_without_the_last_padding(padding: int) -> None:
    """The docker CLI sends such a context when the Dockerfile lies outside of it."""
    archive = tarwrite.header(Entry(b"file", size=30)) + b"x" * 30 + bytes(padding)
    for cursor in (BufferCursor(archive), StreamCursor(io.BytesIO(archive))):
        assert [(e.name, cursor.read(e.size)) for e in tar.entries(cursor)] == [
            (b"file", b"x" * 30)
        ]
    for unread in (BufferCursor(archive), StreamCursor(io.BytesIO(archive))):
        assert [entry.name for entry in tar.entries(unread)] == [b"file"]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024])
def test_a_cut_archive_is_refused(cut: int) -> None:
    archive = tarwrite.header(Entry(b"x" * 200, size=600)) + bytes(1024) + tarwrite.END
    with pytest.raises(InvalidTar):
        list(tar.entries(StreamCursor(io.BytesIO(archive[:cut]))))


@pytest.mark.parametrize("key", [b"path", b"linkpath"])
def test_names_with_null_bytes_are_refused(key: bytes) -> None:
    """To the kernel such a name would be the part before it."""
    record = b"%s=etc\0/x\n" % key
    record = b"%d %s" % (len(record) + 3, record)
    extended = tarwrite.header(Entry(b"x", size=len(record)))
    extended = extended[:156] + b"x" + extended[157:]
    checksum = sum(extended[:148]) + sum(b" " * 8) + sum(extended[156:])
    extended = extended[:148] + b"%06o\0 " % checksum + extended[156:]
    archive = extended + record + tarwrite.padding(len(record)) + tarwrite.header(Entry(b"f"))
    with pytest.raises(InvalidTar, match="null byte"):
        list(tar.entries(BufferCursor(archive)))


def test_an_empty_stream_is_an_empty_layer() -> None:
    assert list(tar.entries(StreamCursor(io.BytesIO(b"")))) == []


def test_an_extended_header_is_bounded() -> None:
    block = tarwrite._pack(b"x", 0o644, 0, 0, 1 << 30, 0, b"x", b"", 0, 0, b"")
    with pytest.raises(InvalidTar, match="megabyte"):
        list(tar.entries(StreamCursor(io.BytesIO(block))))
