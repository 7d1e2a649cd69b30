"""``update``: other limits for containers that exist."""

from __future__ import annotations

from sampan.cli import resources, runflags
from sampan.cli.command import Command
from sampan.cli.creation import restart_policy
from sampan.cli.failure import Failure
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_NAMES = frozenset(
    {
        "blkio-weight",
        "cpu-period",
        "cpu-quota",
        "cpu-rt-period",
        "cpu-rt-runtime",
        "cpu-shares",
        "cpus",
        "cpuset-cpus",
        "cpuset-mems",
        "kernel-memory",
        "memory",
        "memory-reservation",
        "memory-swap",
        "pids-limit",
        "restart",
    }
)


def update(session: Session, options: Options, arguments: list[str]) -> int:
    """Change limits and the restart policy."""
    from sampan.cli.main import describe
    from sampan.errors import SampanError

    body = resources.limits(options)
    if options.given("restart"):
        body["RestartPolicy"] = restart_policy(options["restart"])
    if not body:
        raise Failure("you must provide one or more flags when using this command")
    failures: list[str] = []
    warnings: list[str] = []
    for name in arguments:
        try:
            answer = session.api.post(f"/containers/{quote(name)}/update", json=body)
        except SampanError as error:
            failures.append(describe(error))
        else:
            session.say(name)
            warnings += answer.get("Warnings") or []
    if warnings:
        session.complain("\n".join(warnings))
    if failures:
        raise Failure("\n".join(failures))
    return 0


UPDATE = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    update,
    tuple(flag for flag in runflags.CREATE if flag.name in _NAMES),
    least=1,
)
