"""``system check``: whether the machine agrees with the engine's records."""

from __future__ import annotations

from sampan.cli.command import Command
from sampan.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def check(session: Session, options: Options, arguments: list[str]) -> int:
    """Print each problem; 1 if one is left."""
    if options["repair"]:
        answer = session.api.post("/sampan/check")
    else:
        answer = session.api.get("/sampan/check")
    problems = answer["Problems"]
    for problem in problems:
        fate = " (repaired)" if problem["Repaired"] else ""
        session.say(f"{problem['Area']}: {problem['Text']}{fate}")
    left = sum(not problem["Repaired"] for problem in problems)
    if not problems and not options["quiet"]:
        session.say("no problems found")
    return 1 if left else 0


CHECK = Command(
    "[OPTIONS]",
    "Check that the machine agrees with the engine's records: links, addresses, packet filter, "
    "blobs, images, snapshots",
    check,
    (
        Flag("quiet", "", "Print nothing when there are no problems", "q"),
        Flag("repair", "", "Mend what can be mended"),
    ),
    most=0,
)
