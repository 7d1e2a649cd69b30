"""What ``run``, ``start``, ``attach`` and ``exec`` share: being attached to a process."""

from __future__ import annotations

import sys

from sampan import wirejson
from sampan.cli import terminal
from sampan.cli.failure import Failure
from sampan.cli.pump import DETACHED, Pump
from sampan.cli.signals import ENDING, PROXIED, WINCH, Arrivals, name_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.session import Session
    from sampan.client.http import Response

PATIENCE = 3
"""How many times SIGINT or SIGTERM is passed on before this process ends by itself."""
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


class Attachment:
    """A process's streams, from the moment they are open until they end.

    ``resize(rows, columns)`` and ``signal(name)`` act on the process; either may be None.
    """

    def __init__(
        self,
        response: Response,
        *,
        tty: bool,
        stdin: bool,
        keys: bytes,
        resize: Callable[[int, int], object] | None = None,
        signal: Callable[[str], object] | None = None,
    ) -> None:
        self._response = response
        self._tty, self._stdin, self._keys = tty, stdin, keys
        self._resize, self._signal = resize, signal
        self._size = (0, 0)
        self._pleas = 0

    def run(self, before: Callable[[], object] | None = None) -> str:
        """Carry the streams until they end; ``before`` is called when signals are caught and the
        terminal is ready (it starts the process)."""
        numbers = list(PROXIED) if self._signal is not None else []
        on_terminal = self._tty and self._resize is not None
        if on_terminal:
            numbers.append(WINCH)
        sock, first = self._response.hijack()
        kind = self._response.headers.get("content-type", "")
        multiplexed = kind == MULTIPLEXED or (not self._tty and "raw-stream" in kind)
        sys.stdout.flush()
        with Arrivals(numbers) as arrivals, terminal.Raw(active=self._tty and self._stdin):
            if before is not None:
                before()
            if on_terminal:
                self._fit()
            pump = Pump(
                sock,
                first,
                multiplexed=multiplexed,
                stdin=self._stdin,
                keys=self._keys if self._tty else b"",
                arrivals=arrivals,
                on_signal=self._arrived,
            )
            ended = pump.run()
        sock.close()
        return ended

    def _arrived(self, number: int) -> None:
        if number == WINCH:
            self._fit()
        elif self._signal is not None:
            self._pleas += number in ENDING
            if self._pleas >= PATIENCE:
                # The process ignores them; the user must not have to look for this one's number.
                raise Failure(f"got {PATIENCE} SIGTERM/SIGINTs, forcefully exiting")
            try:
                self._signal(name_of(number))
            except SampanError:
                # It has ended already, or has not begun: its exit code will tell.
                pass

    def _fit(self) -> None:
        size = terminal.size()
        if size == self._size or size == (0, 0) or self._resize is None:
            return
        try:
            self._resize(*size)
            self._size = size
        except SampanError:
            pass


class Waiting:
    """A ``wait`` that the daemon has registered; its answer comes when the container ends."""

    def __init__(self, session: Session, container: str, condition: str) -> None:
        from sampan.client.api import Api

        self._api = Api(session.api.host)
        self._response = self._api.open(
            "POST", f"/containers/{container}/wait", {"condition": condition}
        )

    def code(self) -> int:
        """The exit code; :class:`Failure` if waiting itself failed."""
        answer: Any = wirejson.loads(self._response.read())
        self._response.close()
        problem = (answer.get("Error") or {}).get("Message")
        if problem:
            raise Failure(f"Error waiting for container: {problem}", 125)
        return int(answer["StatusCode"])


def open_streams(
    session: Session,
    container: str,
    *,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    keys: str,
    logs: bool = False,
) -> Response:
    """Attach to a container's streams."""
    query: dict[str, object] = {
        "stream": True,
        "stdin": stdin,
        "stdout": stdout,
        "stderr": stderr,
        "detachKeys": keys or None,
        "logs": logs,
    }
    return session.api.hijack(f"/containers/{container}/attach", query)


__all__ = ["DETACHED", "Attachment", "Waiting", "open_streams"]
