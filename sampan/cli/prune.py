"""``prune`` of each kind, and of all."""

from __future__ import annotations

import sys

from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

    Filters = dict[str, dict[str, bool]]

_FORCE = Flag("force", "", "Do not prompt for confirmation", "f")
_FILTER = Flag("filter", "filter", 'Provide filter values (e.g. "label=<key>=<value>")')
QUESTION = "Are you sure you want to continue?"


def confirmed(session: Session, options: Options, warning: str) -> bool:
    """Whether the user agrees, or has said ``--force``."""
    if options["force"]:
        return True
    session.say(f"WARNING! {warning}")
    sys.stdout.write(f"{QUESTION} [y/N] ")
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        session.say("")
    if answer.strip().lower() not in ("y", "yes"):
        raise Failure("", 1)
    return True


def _filters(session: Session, options: Options) -> Filters:
    import os

    found = rows.filters(options["filter"])
    if os.path.exists(f"{session.config_dir}/config.json"):
        for text in session.config.get("pruneFilters") or []:
            key, _, value = text.partition("=")
            found.setdefault(key, {})[value] = True
    return found


def _query(filters: Filters) -> dict[str, object]:
    return {"filters": filters} if filters else {}


def _containers(session: Session, filters: Filters) -> tuple[str, int]:
    answer = session.api.post("/containers/prune", _query(filters))
    return _listed("Deleted Containers:", answer.get("ContainersDeleted")), _freed(answer)


def _images(session: Session, filters: Filters, everything: bool) -> tuple[str, int]:
    filters = {**filters, "dangling": {"false" if everything else "true": True}}
    answer = session.api.post("/images/prune", _query(filters))
    lines = [
        f"untagged: {line['Untagged']}" if line.get("Untagged") else f"deleted: {line['Deleted']}"
        for line in answer.get("ImagesDeleted") or []
    ]
    return _listed("Deleted Images:", lines), _freed(answer)


def _volumes(session: Session, filters: Filters, everything: bool) -> tuple[str, int]:
    if everything:
        filters = {**filters, "all": {"true": True}}
    answer = session.api.post("/volumes/prune", _query(filters))
    return _listed("Deleted Volumes:", answer.get("VolumesDeleted")), _freed(answer)


def _networks(session: Session, filters: Filters) -> tuple[str, int]:
    answer = session.api.post("/networks/prune", _query(filters))
    return _listed("Deleted Networks:", answer.get("NetworksDeleted")), 0


def build_cache(session: Session, filters: Filters, everything: bool, keep: int) -> tuple[str, int]:
    """Remove build cache; the text of what went, and the bytes freed."""
    query: dict[str, object] = {**_query(filters), "all": everything}
    if keep:
        query["keep-storage"] = keep
    answer = session.api.post("/build/prune", query)
    return _listed("Deleted build cache objects:", answer.get("CachesDeleted")), _freed(answer)


def _freed(answer: Any) -> int:
    return int(answer.get("SpaceReclaimed") or 0)


def _listed(title: str, lines: list[str] | None) -> str:
    return "\n".join([title, *lines]) + "\n\n" if lines else ""


def _report(text: str, freed: int) -> int:
    sys.stdout.write(f"{text}Total reclaimed space: {human_size(freed)}\n")
    return 0


def containers(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove all stopped containers."""
    confirmed(session, options, "This will remove all stopped containers.")
    return _report(*_containers(session, _filters(session, options)))


def images(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove unused images."""
    confirmed(
        session,
        options,
        "This will remove all images without at least one container associated to them."
        if options["all"]
        else "This will remove all dangling images.",
    )
    return _report(*_images(session, _filters(session, options), options["all"]))


def volumes(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove unused volumes."""
    found = _filters(session, options)
    if options["all"] and "all" in found:
        raise Failure("conflicting options: cannot specify both --all and --filter all=1")
    confirmed(
        session,
        options,
        f"This will remove {'all' if options['all'] else 'anonymous'} local volumes not used by "
        "at least one container.",
    )
    return _report(*_volumes(session, found, options["all"]))


def networks(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove unused networks."""
    confirmed(
        session,
        options,
        "This will remove all custom networks not used by at least one container.",
    )
    text, _ = _networks(session, _filters(session, options))
    sys.stdout.write(text)
    return 0


def system(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove unused data of every kind."""
    found = _filters(session, options)
    if options["volumes"] and "until" in found:
        raise Failure('the "until" filter is not supported with "--volumes"')
    confirmed(session, options, _warning(options, found))
    text, freed = "", 0
    results = [_containers(session, found), _networks(session, found)]
    if options["volumes"]:
        results.append(_volumes(session, found, everything=False))
    results.append(_images(session, found, options["all"]))
    results.append(build_cache(session, found, options["all"], 0))
    for part, size in results:
        text += part
        freed += size
    return _report(text, freed)


def _warning(options: Options, filters: Filters) -> str:
    lines = [
        "This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
    ]
    if options["volumes"]:
        lines.append("  - all anonymous volumes not used by at least one container")
    if options["all"]:
        lines.append("  - all images without at least one container associated to them")
        lines.append("  - all build cache")
    else:
        lines += ["  - all dangling images", "  - unused build cache"]
    if filters:
        lines += ["", "  Items to be pruned will be filtered with:"]
        lines += [f"  - {key}={value}" for key, values in filters.items() for value in values]
    return "\n".join(lines) + "\n"


CONTAINERS = Command(
    "[OPTIONS]", "Remove all stopped containers", containers, (_FILTER, _FORCE), most=0
)
IMAGES = Command(
    "[OPTIONS]",
    "Remove unused images",
    images,
    (Flag("all", "", "Remove all unused images, not just dangling ones", "a"), _FILTER, _FORCE),
    most=0,
)
NETWORKS = Command("[OPTIONS]", "Remove all unused networks", networks, (_FILTER, _FORCE), most=0)
VOLUMES = Command(
    "[OPTIONS]",
    "Remove unused local volumes",
    volumes,
    (Flag("all", "", "Remove all unused volumes, not just anonymous ones", "a"), _FILTER, _FORCE),
    most=0,
)
SYSTEM = Command(
    "[OPTIONS]",
    "Remove unused data",
    system,
    (
        Flag("all", "", "Remove all unused images not just dangling ones", "a"),
        _FILTER,
        _FORCE,
        Flag("volumes", "", "Prune anonymous volumes"),
    ),
    most=0,
)
