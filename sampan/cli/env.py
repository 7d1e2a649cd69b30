"""``system env``: make other tools use this daemon."""

from __future__ import annotations

from sampan.cli.command import PROGRAM, Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def env(session: Session, options: Options, arguments: list[str]) -> int:
    """Print commands for the shell."""
    import shlex

    shell = options["shell"]
    if shell not in ("sh", "fish"):
        raise Failure(
            f"unknown shell {shell!r}: it must be sh (also for bash and zsh) or fish", 125
        )
    address = shlex.quote(session.host.address)
    if shell == "fish":
        session.say(f"set -gx DOCKER_HOST {address}")
        session.say(f"# Run this to use it: {PROGRAM} system env --shell fish | source")
    else:
        session.say(f"export DOCKER_HOST={address}")
        session.say(f'# Run this to use it: eval "$({PROGRAM} system env)"')
    return 0


ENV = Command(
    "[OPTIONS]",
    "Print the environment that makes other tools use this daemon",
    env,
    (Flag("shell", "string", "Shell to print for (sh or fish)", default="sh"),),
    most=0,
)
