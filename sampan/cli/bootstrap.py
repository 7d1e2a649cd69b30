"""``image bootstrap``: a base image from the host's own packages, without a registry."""

from __future__ import annotations

import sys

from sampan.cli import progress
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.references import tagged
from sampan.client.api import checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

KINDS = ("debian", "busybox")
VARIANTS = ("minbase", "essential", "apt", "buildd", "standard", "important", "required")


def bootstrap(session: Session, options: Options, arguments: list[str]) -> int:
    """Make the image and print its identifier (alone, with ``--quiet``)."""
    kind, suite = tagged(arguments[0])
    if kind not in KINDS:
        raise Failure(
            f"cannot bootstrap {arguments[0]!r}: it must be debian:SUITE (as debian:bookworm) or "
            "busybox",
            125,
        )
    names = options["tag"] or [f"{kind}:{suite or 'latest'}"]
    quiet = options["quiet"]
    screen = progress.Screen(sys.stderr)
    with screen:
        if kind == "busybox":
            from sampan.cli import busyboxroot

            chunks: Iterable[bytes] = busyboxroot.tar()
            command = 'CMD ["sh"]'
        else:
            from sampan.cli import debianroot

            if options["variant"] not in VARIANTS:
                raise Failure(
                    f"unknown variant {options['variant']!r}: it must be one of "
                    f"{', '.join(VARIANTS)}",
                    125,
                )
            chunks = debianroot.tar(
                debianroot.suite_of(suite),
                variant=options["variant"],
                include=options["include"],
                screen=None if quiet else screen,
            )
            command = 'CMD ["bash"]'
        identifier = _import(session, names[0], chunks, command, None if quiet else screen)
    for name in names[1:]:
        repository, tag = tagged(name)
        session.api.post(f"/images/{identifier}/tag", {"repo": repository, "tag": tag or "latest"})
    if not quiet:
        for name in names:
            session.complain(f"Made {name}")
    session.say(identifier)
    return 0


def _import(
    session: Session,
    name: str,
    chunks: Iterable[bytes],
    command: str,
    screen: progress.Screen | None,
) -> str:
    repository, tag = tagged(name)
    query: dict[str, object] = {
        "fromSrc": "-",
        "repo": repository,
        "tag": tag or "latest",
        "changes": [command],
        "message": "Bootstrapped from Debian packages",
    }
    source = iter(chunks)
    # Nothing is asked of the daemon before there is something to import.
    first = next(source, b"")
    body = _joined(first, source)
    if screen is not None and screen.live:
        body = progress.counted(body, screen, "Importing", 0)
    messages = session.api.messages(
        "POST",
        "/images/create",
        query,
        body=body,
        headers={"Content-Type": "application/x-tar"},
    )
    identifier = ""
    for message in checked(messages):
        status = str(message.get("status") or message.get("stream") or "").strip()
        if status.startswith("sha256:"):
            identifier = status
    if not identifier:
        raise Failure("the daemon did not say which image it has made")
    return identifier


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


BOOTSTRAP = Command(
    "[OPTIONS] debian:SUITE|busybox",
    "Make a base image from Debian packages, without a registry\n\n"
    "debian:SUITE is made by mmdebstrap from the sources in /etc/apt, signatures verified;\n"
    "busybox of the statically linked /bin/busybox.",
    bootstrap,
    (
        Flag("include", "strings", "Further packages to install, separated by commas"),
        Flag("quiet", "", "Only print the image's ID", "q"),
        Flag("tag", "list", "Name of the image (default: what was asked for)", "t"),
        Flag("variant", "string", "Set of packages to install", default="minbase"),
    ),
    least=1,
    most=1,
)
