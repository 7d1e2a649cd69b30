"""``commit``: a container's file system as an image."""

from __future__ import annotations

import sys

from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.images import split_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def commit(session: Session, options: Options, arguments: list[str]) -> int:
    """Make an image and print its identifier."""
    repository, tag = split_tag(arguments[1]) if len(arguments) > 1 else ("", "")
    if "@" in repository:
        raise Failure("refusing to create a tag with a digest reference")
    query: dict[str, object] = {
        "container": arguments[0],
        "repo": repository or None,
        "tag": (tag or "latest") if repository else None,
        "author": options["author"] or None,
        "comment": options["message"] or None,
        "changes": options["change"] or None,
        "pause": "0" if options["no-pause"] or not options["pause"] else "1",
    }
    if sys.stderr.isatty():
        session.say(_followed(session, query))
    else:
        session.say(session.api.post("/commit", query)["Id"])
    return 0


def _followed(session: Session, query: dict[str, object]) -> str:
    """Commit with a bar of the bytes written, on standard error; the image's identifier."""
    from sampan.cli import progress
    from sampan.client.api import checked

    identifier = ""
    with progress.Screen(sys.stderr) as screen:
        # An engine that does not know of progress answers with the last message alone.
        for message in checked(session.api.messages("POST", "/commit", {**query, "progress": "1"})):
            if "Id" in message:
                identifier = str(message["Id"])
            else:
                progress.put(screen, message)
    return identifier


COMMIT = Command(
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Create a new image from a container's changes",
    commit,
    (
        Flag("author", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")', "a"),
        Flag("change", "list", "Apply Dockerfile instruction to the created image", "c"),
        Flag("message", "string", "Commit message", "m"),
        Flag("no-pause", "", "Disable pausing container during commit"),
        Flag("pause", "", "Pause container during commit", "p", True),
    ),
    least=1,
    most=2,
)
