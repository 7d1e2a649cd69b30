"""``logs --follow``: goes on where it was when the daemon is restarted.

Our daemon tells the time of each piece.  After a break the followed log is asked for again from
the piece of that time on, wherever it is, and what had come with that time is left out.  The clock
may have been set back meanwhile: the time names the piece, and no times are compared.
"""

from __future__ import annotations

import sys
import time

from sampan.cli.logs import copy_out
from sampan.cli.pump import write_all
from sampan.client.dial import dial
from sampan.client.failures import ConnectionFailed
from sampan.client.streams import STDERR, TimedFrames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.session import Session
    from sampan.client.http import Response

TIMED = "application/vnd.sampan.timed-stream"
_PATIENCE, _PAUSE = 60.0, 0.1
_SECOND = 10**9


def follow(session: Session, path: str, query: dict[str, object]) -> int:
    """Print the log and what comes.

    :raises ConnectionFailed: the connection broke, and for a minute there is no daemon.
    """
    if query["tail"] != "all":
        # The pieces must be cut alike later, when there is no tail any more.
        query = {**query, "lines": True}
    sys.stdout.flush()
    response = session.api.open("GET", path, query, headers={"Accept": TIMED})
    if response.headers.get("content-type") != TIMED:
        # A daemon that does not tell times.
        return copy_out(session, path, response)
    printer = _Printer()
    deadline = 0.0
    while True:
        try:
            for chunk in response.chunks():
                printer.feed(chunk)
                deadline = 0.0
            return 0
        except ConnectionFailed:
            # There may be no daemon for a while.  None is started: it may be away on purpose.
            now = time.monotonic()
            deadline = deadline or now + _PATIENCE
            if now > deadline:
                raise
        response = _again(session, path, {**query, **printer.rest()}, deadline)


class _Printer:
    """Prints pieces, and knows which was the last."""

    def __init__(self) -> None:
        self._frames = TimedFrames()
        self._last = self._count = self._skip = 0

    def feed(self, chunk: bytes) -> None:
        for stream, at, data in self._frames.feed(chunk):
            if self._skip and at == self._last:
                self._skip -= 1
                continue
            self._skip = 0
            self._count = self._count + 1 if at == self._last else 1
            self._last = at
            write_all(2 if stream == STDERR else 1, data)

    def rest(self) -> dict[str, object]:
        """The query for what comes after the last piece; that comes once more, with the others of
        its time, and is left out."""
        self._frames = TimedFrames()
        self._skip = self._count
        if not self._last:
            return {}
        return {"tail": "all", "after": f"{self._last // _SECOND}.{self._last % _SECOND:09}"}


def _again(session: Session, path: str, query: dict[str, object], deadline: float) -> Response:
    while True:
        try:
            dial(session.host).close()
            return session.api.open("GET", path, query, headers={"Accept": TIMED})
        except ConnectionFailed:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)
