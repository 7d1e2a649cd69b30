"""``system df``: what takes room on disk."""

from __future__ import annotations

import sys

from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.images import IMAGE, names_of
from sampan.cli.ps import CONTAINER, FORMAT_HELP
from sampan.cli.rows import Kind, Row
from sampan.cli.units import ago, human_size, parse_rfc3339
from sampan.cli.volumes import VOLUME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def _field(name: str) -> Any:
    return lambda row: row.raw[name]


SUMMARY = Kind(
    "*formatter.diskUsageContext",
    {
        "Type": ("TYPE", _field("Type")),
        "TotalCount": ("TOTAL", _field("TotalCount")),
        "Active": ("ACTIVE", _field("Active")),
        "Size": ("SIZE", _field("Size")),
        "Reclaimable": ("RECLAIMABLE", _field("Reclaimable")),
    },
    short="Type",
)
CACHE = Kind(
    "*formatter.buildCacheContext",
    {
        "ID": ("CACHE ID", lambda row: row.raw["ID"][:12] if row.truncate else row.raw["ID"]),
        "CacheType": ("CACHE TYPE", lambda row: row.raw.get("Type") or ""),
        "Size": ("SIZE", lambda row: human_size(row.raw.get("Size") or 0, 3)),
        "CreatedSince": ("CREATED", lambda row: _since(row.raw.get("CreatedAt"))),
        "LastUsedSince": ("LAST USED", lambda row: _since(row.raw.get("LastUsedAt"))),
        "UsageCount": ("USAGE", lambda row: str(row.raw.get("UsageCount") or 0)),
        "Shared": ("SHARED", lambda row: "true" if row.raw.get("Shared") else "false"),
        "InUse": ("IN USE", lambda row: "true" if row.raw.get("InUse") else "false"),
        "Description": ("DESCRIPTION", lambda row: row.raw.get("Description") or ""),
        "Parent": ("PARENT", lambda row: row.raw.get("Parent") or ""),
    },
)


def _since(text: str | None) -> str:
    return ago(parse_rfc3339(text)) if text else ""


def _summary(title: str, total: int, active: int, size: int, reclaimable: str) -> dict[str, str]:
    return {
        "Type": title,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": reclaimable,
    }


def _share(part: int, whole: int) -> str:
    share = f" ({part * 100 // whole}%)" if whole > 0 else ""
    return human_size(part) + share


def _summaries(found: dict[str, Any]) -> list[dict[str, str]]:
    images, containers = found.get("Images") or [], found.get("Containers") or []
    volumes, caches = found.get("Volumes") or [], found.get("BuildCache") or []
    layers = found.get("LayersSize") or 0
    used = sum(
        (image.get("Size") or 0) - max(image.get("SharedSize") or 0, 0)
        for image in images
        if (image.get("Containers") or 0) > 0
    )
    running = [one for one in containers if one.get("State") in ("running", "paused", "restarting")]
    written = sum(one.get("SizeRw") or 0 for one in containers)
    idle = written - sum(one.get("SizeRw") or 0 for one in running)
    sizes = [(one.get("UsageData") or {}) for one in volumes]
    held = sum(max(usage.get("Size", 0), 0) for usage in sizes)
    loose = sum(max(usage.get("Size", 0), 0) for usage in sizes if not usage.get("RefCount"))
    cached = sum(cache.get("Size") or 0 for cache in caches if not cache.get("Shared"))
    in_use = sum(
        cache.get("Size") or 0 for cache in caches if cache.get("InUse") and not cache.get("Shared")
    )
    active_images = sum((image.get("Containers") or 0) > 0 for image in images)
    return [
        _summary(
            "Images", len(images), active_images, layers, _share(max(0, layers - used), layers)
        ),
        _summary("Containers", len(containers), len(running), written, _share(idle, written)),
        _summary(
            "Local Volumes",
            len(volumes),
            sum(bool(usage.get("RefCount")) for usage in sizes),
            held,
            _share(loose, held),
        ),
        _summary(
            "Build Cache",
            len(caches),
            sum(bool(cache.get("InUse")) for cache in caches),
            cached,
            human_size(cached - in_use),
        ),
    ]


def df(session: Session, options: Options, arguments: list[str]) -> int:
    """Print the disk usage, summed up or in detail."""
    found = session.api.get("/system/df")
    form = options["format"]
    if options["verbose"]:
        return _verbose(session, found, form)
    rows.write(
        SUMMARY,
        _summaries(found),
        form=form,
        default=("Type", "TotalCount", "Active", "Size", "Reclaimable"),
    )
    return 0


def _image_lines(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"image": image, "repository": repository, "tag": tag, "digest": ""}
        for image in found.get("Images") or []
        for repository, tag, _ in names_of(image, digests=False)
    ]


def _verbose(session: Session, found: dict[str, Any], form: str) -> int:
    # Only what containers have written is told here; their images have lines of their own.
    containers = [{**one, "SizeRootFs": 0} for one in found.get("Containers") or []]
    images = _image_lines(found)
    volumes, caches = found.get("Volumes") or [], found.get("BuildCache") or []
    parts = (
        ("Images", IMAGE, images),
        ("Containers", CONTAINER, containers),
        ("Volumes", VOLUME, volumes),
        ("BuildCache", CACHE, caches),
    )
    if form:
        everything = {
            name: [Row(kind, raw, truncate=False).to_json() for raw in raws]
            for name, kind, raws in parts
        }
        from sampan.cli.info import formatted

        formatted(session, form, everything)
        return 0
    columns = (
        (
            "Repository",
            "Tag",
            "ID",
            "CreatedSince",
            "Size",
            "SharedSize",
            "UniqueSize",
            "Containers",
        ),
        ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"),
        ("Name", "Links", "Size"),
        ("ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"),
    )
    total = human_size(sum(cache.get("Size") or 0 for cache in caches if not cache.get("Shared")))
    titles = (
        "Images space usage:",
        "Containers space usage:",
        "Local Volumes space usage:",
        f"Build cache usage: {total}",
    )
    text = []
    for title, (_, kind, raws), names in zip(titles, parts, columns, strict=True):
        table = rows.text_of(kind, [Row(kind, raw) for raw in raws], "", names, quiet=False)
        text.append(f"{title}\n\n{table}")
    sys.stdout.write("\n".join(text))
    return 0


DF = Command(
    "[OPTIONS]",
    "Show disk usage of images, containers, volumes and build cache",
    df,
    (
        Flag("format", "string", FORMAT_HELP),
        Flag("verbose", "", "Show detailed information on space usage", "v"),
    ),
    most=0,
)
