"""A process's attributes, memory files, terminals, watches."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.linux import capabilities, inotify, memfd, namespaces, process, pty


def in_child(action: str) -> int:
    """Run Python code in a fresh interpreter; its exit code."""
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", action], check=False).returncode


def test_start_times_tell_processes_apart() -> None:
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    try:
        assert process.start_time(pid) >= process.start_time(os.getpid())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with pytest.raises(OSError):
        process.start_time(pid)


def test_close_all_but() -> None:
    code = """
import os
from sampan.linux.process import close_all_but
kept = [0, 1, 2, os.dup(1), os.dup(1), os.dup(1)]
gone = kept.pop(4)
close_all_but(kept)
for fd in kept: os.fstat(fd)
try: os.fstat(gone)
except OSError: os._exit(7)
"""
    assert in_child(code) == 7


def test_sealed_files(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"#!/bin/true\n" * 1000)
    fd = memfd.sealed_copy(str(tmp_path / "program"), "copy")
    try:
        assert memfd.read_all(fd) == b"#!/bin/true\n" * 1000
        with pytest.raises(OSError):
            os.write(fd, b"x")
        with pytest.raises(OSError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@given(st.sets(st.sampled_from(list(capabilities.NAMES))))
def test_capability_masks(names: set[str]) -> None:
    mask = capabilities.mask(names)
    assert {name for name, number in capabilities.NUMBERS.items() if mask >> number & 1} == names


def test_terminals() -> None:
    master, slave = pty.open_pair(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    try:
        pty.set_window(master, 12, 34)
        assert os.get_terminal_size(slave) == (34, 12)
        assert os.ttyname(slave) == f"/dev/pts/{pty.number(master)}"
    finally:
        os.close(master)
        os.close(slave)


def test_only_a_multiplexer_is_one() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        with pytest.raises(OSError, match="not a terminal multiplexer"):
            pty.open_pair(null)
    finally:
        os.close(null)


def test_watches(tmp_path: Path) -> None:
    fd = inotify.create()
    try:
        watch = inotify.add_watch(fd, tmp_path, inotify.IN_CREATE)
        assert inotify.read_events(fd) == []
        (tmp_path / "x").touch()
        assert inotify.read_events(fd) == [inotify.Event(watch, inotify.IN_CREATE, "x")]
        inotify.remove_watch(fd, watch)
    finally:
        os.close(fd)


def test_namespace_names() -> None:
    assert namespaces.names(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS) == "mount, pid"
    with pytest.raises(FileNotFoundError):
        namespaces.open_namespace(2**22 + 1, "pid")
