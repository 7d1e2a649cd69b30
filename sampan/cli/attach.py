"""``attach``: join a running container's standard streams."""

from __future__ import annotations

from sampan.cli import terminal
from sampan.cli.attached import Attachment, Waiting, open_streams
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.pump import DETACHED
from sampan.cli.run import resizer, signaller
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def check_state(state: dict[str, Any]) -> None:
    """Refuse a container that cannot be attached to."""
    if not state["Running"]:
        raise Failure("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise Failure("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise Failure("You cannot attach to a restarting container, wait until it is running")


def attach(session: Session, options: Options, arguments: list[str]) -> int:
    """Attach until the container ends (its exit code is ours) or the detach keys are pressed."""
    name = quote(arguments[0])
    found = session.api.get(f"/containers/{name}/json")
    check_state(found["State"])
    config = found["Config"]
    stdin = config["OpenStdin"] and not options["no-stdin"]
    terminal.check_terminal(stdin, config["Tty"])
    keys, key_bytes = terminal.keys_of(session, options["detach-keys"])
    waiting = Waiting(session, name, "")
    response = open_streams(session, name, stdin=stdin, stdout=True, stderr=True, keys=keys)
    proxy = options["sig-proxy"] and not config["Tty"]
    ended = Attachment(
        response,
        tty=config["Tty"],
        stdin=stdin,
        keys=key_bytes,
        resize=resizer(session, name),
        signal=signaller(session, name) if proxy else None,
    ).run()
    if ended == DETACHED:
        raise Failure("read escape sequence")
    return waiting.code()


ATTACH = Command(
    "[OPTIONS] CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    attach,
    (
        Flag("detach-keys", "string", "Override the key sequence for detaching a container"),
        Flag("no-stdin", "", "Do not attach STDIN"),
        Flag("sig-proxy", "", "Proxy all received signals to the process", default=True),
    ),
    least=1,
    most=1,
)
