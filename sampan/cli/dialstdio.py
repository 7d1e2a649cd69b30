"""``system dial-stdio``: this process's standard input and output as a connection to the daemon."""

from __future__ import annotations

from sampan.cli.command import Command
from sampan.cli.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def dial_stdio(session: Session, options: Options, arguments: list[str]) -> int:
    """Carry bytes both ways until the daemon closes."""
    Pump(session.api.dial(), b"", multiplexed=False, stdin=True).run()
    return 0


DIAL_STDIO = Command(
    "",
    "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
    dial_stdio,
    most=0,
)
