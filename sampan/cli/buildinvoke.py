"""``build --invoke``: a shell in the state that a failed command found."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.session import Session


def shell(session: Session, image: str) -> None:
    """Run a shell in the image, on this terminal if there is one; then remove the image."""
    from sampan.cli.buildcache import forget
    from sampan.cli.run import RUN

    sys.stderr.write("A shell in the state before the failed step; it ends the build.\n")
    flags = ["-it"] if sys.stdin.isatty() and sys.stdout.isatty() else ["-i"]
    try:
        RUN.run(session, ["--rm", *flags, "--entrypoint", "/bin/sh", image])
    finally:
        forget(session, [image])
