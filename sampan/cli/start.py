"""``start``: run containers that were made before."""

from __future__ import annotations

from sampan.cli import terminal
from sampan.cli.attached import Attachment, Waiting, open_streams
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.pump import DETACHED
from sampan.cli.run import resizer, signaller
from sampan.cli.session import failures
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def start(session: Session, options: Options, arguments: list[str]) -> int:
    """Start containers; with ``--attach`` or ``--interactive`` one, and see it through."""
    query: dict[str, object] = {
        "checkpoint": options["checkpoint"] or None,
        "checkpoint-dir": options["checkpoint-dir"] or None,
    }
    if not options["attach"] and not options["interactive"]:
        failed = failures(session, arguments, "POST", "/containers/{}/start", query)
        if failed:
            raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
        return 0
    if len(arguments) > 1:
        raise Failure("you cannot start and attach multiple containers at once")
    found = session.api.get(f"/containers/{quote(arguments[0])}/json")
    name, config = found["Id"], found["Config"]
    stdin = options["interactive"] and config["OpenStdin"]
    terminal.check_terminal(stdin, config["Tty"])
    keys, key_bytes = terminal.keys_of(session, options["detach-keys"])
    response = open_streams(session, name, stdin=stdin, stdout=True, stderr=True, keys=keys)
    condition = "removed" if found["HostConfig"].get("AutoRemove") else "next-exit"
    waiting = Waiting(session, name, condition)
    ended = Attachment(
        response,
        tty=config["Tty"],
        stdin=stdin,
        keys=key_bytes,
        resize=resizer(session, name),
        signal=None if config["Tty"] else signaller(session, name),
    ).run(before=lambda: session.api.post(f"/containers/{name}/start", query))
    return 0 if ended == DETACHED else waiting.code()


START = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    start,
    (
        Flag("attach", "", "Attach STDOUT/STDERR and forward signals", "a"),
        Flag("checkpoint", "string", "Restore from this checkpoint"),
        Flag("checkpoint-dir", "string", "Use a custom checkpoint storage directory"),
        Flag("detach-keys", "string", "Override the key sequence for detaching a container"),
        Flag("interactive", "", "Attach container's STDIN", "i"),
    ),
    least=1,
)
