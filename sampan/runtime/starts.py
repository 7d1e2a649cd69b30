"""Starts in progress: the keeper's event loop waits for their starters.

A container can delay the start of a further process in it as long as it likes: it leaves the
process no processor time, or stops it.  So the keeper waits for no starter
(:mod:`sampan.runtime.starter`), but goes on and is called back.  A start that is not wanted any
more is *given up*: its starter finds the keeper's side of their connection shut, ends what it has
begun, and reports that as a failure.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

from sampan.linux import process
from sampan.runtime.errors import StartError
from sampan.runtime.loop import IN, Loop
from sampan.runtime.starter import OnServices, Result, Starter, fail
from sampan.runtime.unfinished import Unfinished

AT_ONCE = 8
"""Starters that there are at the same time; further starts wait for their turn."""
MOST = 1000
"""Starts that may wait."""

Outcome = Result | StartError
OnOutcome = Callable[[Outcome], None]
"""Called once, when the starter has ended; not before the start has been asked for."""
Work = Callable[[socket.socket], None]
"""What a starter does: a function of :mod:`sampan.runtime.starter`."""


class Start:
    """One start, from its request until its starter has ended."""

    def __init__(
        self,
        work: Work,
        on_outcome: OnOutcome,
        needed: Sequence[int],
        on_services: OnServices | None,
    ) -> None:
        self.work = work
        self.needed = needed
        self.on_services = on_services
        self.starter: Starter | None = None
        """While there is one."""
        self.outcome: Outcome | None = None
        self.given_up = False
        self._on_outcome: OnOutcome | None = on_outcome

    def tell(self, outcome: Outcome) -> None:
        """Whoever is told may hold the start, so it is let go: nothing is left to be collected."""
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            on_outcome(outcome)


class Starts:
    """The starts of one container's processes, in the order in which they were asked for."""

    def __init__(self, loop: Loop, unfinished: Unfinished) -> None:
        self._loop = loop
        self._unfinished = unfinished
        self._going: list[Start] = []
        self._waiting: list[Start] = []

    def begin(
        self,
        work: Work,
        on_outcome: OnOutcome,
        *,
        needed: Sequence[int] = (),
        on_services: OnServices | None = None,
    ) -> Start:
        """Have a starter do ``work``, with no descriptors but the ``needed`` ones.

        Raises StartError if too many starts wait already.
        """
        if len(self._waiting) >= MOST:
            raise StartError(f"{MOST} processes wait for their start already", 125)
        start = Start(work, on_outcome, needed, on_services)
        self._unfinished.begin()
        self._waiting.append(start)
        self._fork_next()
        return start

    def give_up(self, start: Start) -> None:
        """It is not wanted any more; its outcome is told soon, and is most likely a failure."""
        if start.given_up:
            return
        start.given_up = True
        if start.starter:
            start.starter.give_up()
        elif start in self._waiting:
            self._waiting.remove(start)
            self._refuse(start, StartError("the container has ended", 126))

    def give_all_up(self) -> None:
        for start in [*self._going, *self._waiting]:
            self.give_up(start)

    def _fork_next(self) -> None:
        while self._waiting and len(self._going) < AT_ONCE:
            start = self._waiting.pop(0)
            try:
                self._fork(start)
            except OSError as failure:
                text = f"the process that was to start it could not be made: {failure.strerror}"
                self._refuse(start, StartError(text, 125))

    def _fork(self, start: Start) -> None:
        def work(sock: socket.socket) -> None:
            # A start may take long: it must keep nothing open that the keeper closes meanwhile.
            # And whoever traces a process that enters a container must find nothing in it that
            # leads out of the container; the errors of the host are such a thing as well.
            os.dup2(0, 2)
            process.close_all_but((0, 1, 2, sock.fileno(), *start.needed))
            try:
                start.work(sock)
            except Exception as failure:
                fail(sock, StartError(f"internal error: {failure!r}", 125))

        start.starter = Starter(work)
        self._going.append(start)
        self._loop.add(start.starter.fileno(), IN, lambda _: self._ready(start))

    def _refuse(self, start: Start, failure: StartError) -> None:
        def tell() -> None:
            start.tell(failure)
            self._unfinished.end()

        self._loop.call_later(0, tell)

    def _ready(self, start: Start) -> None:
        starter = start.starter
        assert starter is not None
        try:
            result = starter.report(None if start.given_up else start.on_services)
        except StartError as failure:
            # Without what holds this start by its frames.
            start.outcome = failure.with_traceback(None)
        except (EOFError, ConnectionResetError):
            self._ended(start, starter)
        else:
            start.outcome = result

    def _ended(self, start: Start, starter: Starter) -> None:
        """Tell only now: what has been started is the keeper's child from now on.  And what the
        keeper writes to while there is a starter is copied."""
        self._loop.remove(starter.fileno())
        starter.close()
        starter.wait()
        start.starter = None
        self._going.remove(start)
        died = StartError("the process that was to start it has died", 125)
        start.tell(start.outcome or died)
        self._unfinished.end()
        self._fork_next()
