"""``exec``: another process in a running container."""

from __future__ import annotations

from sampan.cli import terminal, values
from sampan.cli.attached import Attachment
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.pump import DETACHED
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def execute(session: Session, options: Options, arguments: list[str]) -> int:
    """Run a command in a container; its exit code is ours."""
    container, command = arguments[0], arguments[1:]
    detach, tty = options["detach"], options["tty"]
    stdin = options["interactive"] and not detach
    terminal.check_terminal(stdin, tty)
    keys, key_bytes = terminal.keys_of(session, options["detach-keys"])
    body: dict[str, Any] = {
        "User": options["user"],
        "Privileged": options["privileged"],
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "DetachKeys": keys,
        "Env": values.variables(options["env-file"], options["env"]),
        "WorkingDir": options["workdir"],
        "Cmd": command,
    }
    size = terminal.size() if tty else (0, 0)
    start: dict[str, Any] = {"Detach": detach, "Tty": tty}
    if all(size):
        body["ConsoleSize"] = start["ConsoleSize"] = list(size)
    process = session.api.post(f"/containers/{quote(container)}/exec", json=body)["Id"]
    if detach:
        session.api.post(f"/exec/{process}/start", json=start)
        return 0
    response = session.api.hijack(f"/exec/{process}/start", json=start)

    def resize(rows: int, columns: int) -> None:
        session.api.post(f"/exec/{process}/resize", {"h": rows, "w": columns})

    ended = Attachment(response, tty=tty, stdin=stdin, keys=key_bytes, resize=resize).run()
    if ended == DETACHED:
        raise Failure("read escape sequence")
    return int(session.api.get(f"/exec/{process}/json")["ExitCode"] or 0)


EXEC = Command(
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    execute,
    (
        Flag("detach", "", "Detached mode: run command in the background", "d"),
        Flag("detach-keys", "string", "Override the key sequence for detaching a container"),
        Flag("env", "list", "Set environment variables", "e"),
        Flag("env-file", "list", "Read in a file of environment variables"),
        Flag("interactive", "", "Keep STDIN open even if not attached", "i"),
        Flag("privileged", "", "Give extended privileges to the command"),
        Flag("tty", "", "Allocate a pseudo-TTY", "t"),
        Flag("user", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")', "u"),
        Flag("workdir", "string", "Working directory inside the container", "w"),
    ),
    least=2,
    interspersed=False,
)
