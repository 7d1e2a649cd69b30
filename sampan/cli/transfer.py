"""``pull`` and ``push``."""

from __future__ import annotations

import sys

from sampan.cli import credentials, progress
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.references import canonical, tagged
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def pull_image(
    session: Session,
    name: str,
    *,
    platform: str = "",
    quiet: bool = False,
    to_stderr: bool = False,
    all_tags: bool = False,
) -> None:
    """Pull an image (the tag ``latest`` if none is given), showing progress unless ``quiet``."""
    repository, tag = tagged(name)
    query: dict[str, object] = {
        "fromImage": repository,
        "tag": None if all_tags else tag or "latest",
        "platform": platform or None,
    }
    messages = session.api.messages(
        "POST", "/images/create", query, headers=credentials.header(session, name)
    )
    progress.show(messages, quiet=quiet, out=sys.stderr if to_stderr else sys.stdout)


def pull(session: Session, options: Options, arguments: list[str]) -> int:
    """Download an image."""
    name = arguments[0]
    repository, tag = tagged(name)
    if options["all-tags"] and tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if not tag and not options["all-tags"] and not options["quiet"]:
        session.say("Using default tag: latest")
    pull_image(
        session,
        name,
        platform=options["platform"],
        quiet=options["quiet"],
        all_tags=options["all-tags"],
    )
    session.say(canonical(repository if options["all-tags"] else name, options["all-tags"]))
    return 0


def push(session: Session, options: Options, arguments: list[str]) -> int:
    """Upload an image."""
    name = arguments[0]
    repository, tag = tagged(name)
    if options["all-tags"] and tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if not tag and not options["all-tags"]:
        tag = "latest"
        if not options["quiet"]:
            session.say("Using default tag: latest")
    query: dict[str, object] = {"tag": None if options["all-tags"] else tag}
    if options["platform"]:
        from sampan.cli.images import platform_json

        query["platform"] = platform_json(options["platform"])
    messages = session.api.messages(
        "POST",
        f"/images/{quote(repository)}/push",
        query,
        headers=credentials.header(session, name),
    )
    progress.show(messages, quiet=options["quiet"])
    if options["quiet"]:
        session.say(canonical(name, options["all-tags"]))
    return 0


PULL = Command(
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    pull,
    (
        Flag("all-tags", "", "Download all tagged images in the repository", "a"),
        Flag(
            "platform",
            "string",
            "Set platform if server is multi-platform capable; 'all' pulls every one",
        ),
        Flag("quiet", "", "Suppress verbose output", "q"),
    ),
    least=1,
    most=1,
)
PUSH = Command(
    "[OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    push,
    (
        Flag("all-tags", "", "Push all tags of an image to the repository", "a"),
        Flag(
            "platform",
            "string",
            "Push a platform-specific manifest as a single-platform image to the registry.\n"
            "Image index won't be pushed, meaning that other manifests, including attestations "
            "won't be preserved.\n"
            "'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
        ),
        Flag("quiet", "", "Suppress verbose output", "q"),
    ),
    least=1,
    most=1,
)
