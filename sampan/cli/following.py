"""``logs --follow``: goes on where it was when the daemon is restarted.

Our daemon tells the time of each piece.  After a break the followed log is asked for again from
the time of the last piece on, and what had come with that time is left out.
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

TIMED = "application/vnd.sampan.timed-stream"
_PATIENCE, _PAUSE = 60.0, 0.1
_SECOND = 10**9


def follow(session: Session, path: str, query: dict[str, object]) -> int:
    """Print the log and what comes.

    :raises ConnectionFailed: the connection broke, and for a minute there is no daemon.
    """
    headers = {"Accept": TIMED}
    if query["tail"] != "all":
        # The pieces must be cut alike later, when there is no tail any more.
        query = {**query, "lines": True}
    sys.stdout.flush()
    last, count = 0, 0
    response = session.api.open("GET", path, query, headers=headers)
    while True:
        if response.headers.get("content-type") != TIMED:
            # A daemon that does not tell times.
            return copy_out(session, path, response)
        skip, since = count, last
        try:
            frames = TimedFrames()
            for chunk in response.chunks():
                for stream, at, data in frames.feed(chunk):
                    if at == since and skip:
                        skip -= 1
                        continue
                    count = count + 1 if at == last else 1
                    last = at
                    write_all(2 if stream == STDERR else 1, data)
            return 0
        except ConnectionFailed as failure:
            _wait_for_daemon(session, failure)
        if last:
            since_text = f"{last // _SECOND}.{last % _SECOND:09}"
            query = {**query, "tail": "all", "since": since_text}
        response = session.api.open("GET", path, query, headers=headers)


def _wait_for_daemon(session: Session, failure: ConnectionFailed) -> None:
    """Until one listens again.  None is started: it may have been stopped on purpose."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            dial(session.host).close()
            return
        except ConnectionFailed:
            if time.monotonic() > deadline:
                raise failure from None
        time.sleep(_PAUSE)
