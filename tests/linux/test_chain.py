"""System calls one directly after another."""

from __future__ import annotations

import os
import select
import time

import pytest

from sampan.linux import chain


def test_waits_for_an_event_and_leaves_it() -> None:
    calls = chain.Chain(3)
    readable, writable = os.pipe()
    closed = os.dup(readable)
    with select.epoll() as epoll:
        epoll.register(readable, select.EPOLLIN)
        child = os.fork()
        if not child:
            os.write(writable, b"x")
            os._exit(0)
        calls.run(
            [
                chain.close(closed),
                chain.wait_for_child(child),
                calls.wait_for_event(epoll.fileno(), 60),
            ]
        )
        assert epoll.poll(0) == [(readable, select.EPOLLIN)]
    with pytest.raises(ChildProcessError):
        os.waitpid(child, 0)
    with pytest.raises(OSError):
        os.fstat(closed)
    os.close(readable)
    os.close(writable)


def test_wait_has_a_limit() -> None:
    calls = chain.Chain(1)
    with select.epoll() as epoll:
        begin = time.monotonic()
        calls.run([calls.wait_for_event(epoll.fileno(), 0.05)])
        assert time.monotonic() - begin >= 0.04


def test_waiting_leaves_events_in_their_order() -> None:
    calls = chain.Chain(1)
    pipes = [os.pipe() for _ in range(3)]
    with select.epoll() as epoll:
        for readable, _ in pipes:
            epoll.register(readable, select.EPOLLIN)
        for _, writable in pipes:
            os.write(writable, b"x")
        for _ in range(2):
            calls.run([calls.wait_for_event(epoll.fileno(), -1)])
        assert [fd for fd, _ in epoll.poll(0)] == [readable for readable, _ in pipes]
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
