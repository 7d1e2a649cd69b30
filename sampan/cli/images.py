"""``images``, ``rmi`` and ``tag``."""

from __future__ import annotations

import sys

from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.ps import FORMAT_HELP
from sampan.cli.rows import Kind, Row
from sampan.cli.units import ago, go_time, human_size, short_id, short_size
from sampan.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

NONE = "<none>"


def _id(row: Row) -> str:
    identifier = str(row.raw["image"]["Id"])
    return short_id(identifier) if row.truncate else identifier


def _count(value: Any) -> str:
    return "N/A" if value is None or value < 0 else str(value)


def _bytes(value: Any) -> str:
    return "N/A" if value is None or value < 0 else human_size(value)


def _unique(row: Row) -> str:
    image = row.raw["image"]
    shared, size = image.get("SharedSize", -1), image.get("Size") or 0
    return "N/A" if shared is None or shared < 0 else human_size(size - shared)


def _created(row: Row) -> str:
    created = row.raw["image"].get("Created") or 0
    return ago(created) if created > 0 else "N/A"


IMAGE = Kind(
    "*formatter.imageContext",
    {
        "ID": ("IMAGE ID", _id),
        "Repository": ("REPOSITORY", lambda row: row.raw["repository"]),
        "Tag": ("TAG", lambda row: row.raw["tag"]),
        "Digest": ("DIGEST", lambda row: row.raw["digest"]),
        "CreatedSince": ("CREATED", _created),
        "CreatedAt": ("CREATED AT", lambda row: go_time(row.raw["image"].get("Created") or 0)),
        "Size": ("SIZE", lambda row: short_size(row.raw["image"].get("Size") or 0)),
        "Containers": ("CONTAINERS", lambda row: _count(row.raw["image"].get("Containers"))),
        "VirtualSize": (
            "VIRTUAL SIZE",
            lambda row: human_size(row.raw["image"].get("Size") or 0),
        ),
        "SharedSize": ("SHARED SIZE", lambda row: _bytes(row.raw["image"].get("SharedSize"))),
        "UniqueSize": ("UNIQUE SIZE", _unique),
    },
)
DEFAULT = ("Repository", "Tag", "ID", "CreatedSince", "Size")
DIGESTS = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size")


def split_tag(text: str) -> tuple[str, str]:
    """``host:5000/name:tag`` as its repository and its tag (empty if it has none)."""
    repository, colon, tag = text.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (text, "")


def names_of(image: Any, digests: bool) -> list[tuple[str, str, str]]:
    """``(repository, tag, digest)`` for each line that an image takes in the list."""
    tags: dict[str, list[str]] = {}
    for text in image.get("RepoTags") or []:
        repository, tag = split_tag(text)
        if repository != NONE:
            tags.setdefault(repository, []).append(tag)
    known: dict[str, list[str]] = {}
    for text in image.get("RepoDigests") or []:
        repository, _, digest = text.partition("@")
        if repository != NONE:
            known.setdefault(repository, []).append(digest)
    lines: list[tuple[str, str, str]] = []
    for repository, names in tags.items():
        of_repository = known.pop(repository, [])
        for name in names:
            shown = of_repository if digests and of_repository else [NONE]
            lines += [(repository, name, digest) for digest in shown]
    for repository, found in known.items():
        lines += [(repository, NONE, digest) for digest in (found if digests else [NONE])]
    return lines or [(NONE, NONE, NONE)]


def ls(session: Session, options: Options, arguments: list[str]) -> int:
    """List images."""
    conditions = rows.filters(options["filter"])
    if arguments:
        conditions.setdefault("reference", {})[arguments[0]] = True
    query: dict[str, object] = {"all": options["all"]}
    if conditions:
        query["filters"] = conditions
    form = options["format"]
    if not form and not options["quiet"]:
        from sampan.cli.ps import session_has_config

        if session_has_config(session):
            form = str(session.config.get("imagesFormat") or "")
    if rows.wants(form, "SharedSize") or rows.wants(form, "UniqueSize"):
        query["shared-size"] = True
    if options["tree"]:
        query |= {"manifests": True, "shared-size": True}
    found = session.api.get("/images/json", query)
    if options["tree"]:
        return _tree(found)
    digests = options["digests"] or rows.wants(form, "Digest")
    lines = [
        {"image": image, "repository": repository, "tag": tag, "digest": digest}
        for image in found
        for repository, tag, digest in names_of(image, digests)
    ]
    rows.write(
        IMAGE,
        lines,
        form=form,
        default=DIGESTS if options["digests"] else DEFAULT,
        quiet=options["quiet"],
        truncate=not options["no-trunc"],
    )
    return 0


def _tree(images: list[Any]) -> int:
    from sampan.cli import table

    cells = [["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE"]]
    for image in images:
        names = [tag for tag in image.get("RepoTags") or [] if not tag.startswith(NONE)]
        manifests = [
            row
            for row in image.get("Manifests") or []
            if row.get("Kind") == "image" and row.get("Available")
        ]
        used = (image.get("Containers") or 0) > 0 or any(map(_containers, manifests))
        total = sum(row["Size"]["Total"] for row in manifests) or image.get("Size") or 0
        content = sum(row["Size"]["Content"] for row in manifests)
        identifier = short_id((image.get("Descriptor") or {}).get("digest") or image["Id"])
        sizes = [short_size(total), short_size(content)]
        for name in names or ["<untagged>"]:
            cells.append([name, identifier, *sizes, "✔" if used else ""])
            for manifest in manifests:
                last = manifest is manifests[-1]
                cells.append([("└─ " if last else "├─ ") + _platform(manifest), *_sizes(manifest)])
    sys.stdout.write(table.simple(cells))
    return 0


def _containers(manifest: Any) -> list[Any]:
    return (manifest.get("ImageData") or {}).get("Containers") or []


def _platform(manifest: Any) -> str:
    platform = (manifest.get("ImageData") or {}).get("Platform") or {}
    parts = (platform.get("os", "?"), platform.get("architecture", "?"), platform.get("variant"))
    return "/".join(part for part in parts if part)


def _sizes(manifest: Any) -> list[str]:
    size = manifest["Size"]
    used = "✔" if _containers(manifest) else ""
    return [short_id(manifest["ID"]), short_size(size["Total"]), short_size(size["Content"]), used]


def rm(session: Session, options: Options, arguments: list[str]) -> int:
    """Remove images: untag, and delete what nothing refers to any more."""
    from sampan.cli.main import describe
    from sampan.errors import NotFound, SampanError

    platforms = [platform_json(text) for text in options["platform"]]
    query: dict[str, object] = {"force": options["force"], "noprune": options["no-prune"]}
    if platforms:
        query["platforms"] = platforms
    failures: list[str] = []
    fatal = False
    for name in arguments:
        try:
            answer = session.api.delete(f"/images/{quote(name)}", query)
        except SampanError as error:
            fatal |= not (isinstance(error, NotFound) and options["force"])
            failures.append(describe(error))
            continue
        for line in answer or []:
            if "Deleted" in line:
                session.say(f"Deleted: {line['Deleted']}")
            else:
                session.say(f"Untagged: {line['Untagged']}")
    if failures:
        if fatal:
            raise Failure("\n".join(failures))
        session.complain("\n".join(failures))
    return 0


def platform_json(text: str) -> str:
    """``linux/arm64/v8`` as the JSON object that queries carry."""
    from sampan import wirejson

    parts = text.split("/")
    names = ("os", "architecture", "variant")
    if not 1 <= len(parts) <= len(names) or not all(parts):
        raise Failure(f"invalid platform: {text!r}: it must be OS/ARCH or OS/ARCH/VARIANT", 125)
    return wirejson.dumps(dict(zip(names, parts, strict=False)))


def tag(session: Session, options: Options, arguments: list[str]) -> int:
    """Give an image another name."""
    source, name = arguments
    repository, label = split_tag(name)
    session.api.post(f"/images/{quote(source)}/tag", {"repo": repository, "tag": label or "latest"})
    return 0


LS = Command(
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    ls,
    (
        Flag("all", "", "Show all images (default hides intermediate images)", "a"),
        Flag("digests", "", "Show digests"),
        Flag("filter", "filter", "Filter output based on conditions provided", "f"),
        Flag("format", "string", FORMAT_HELP),
        Flag("no-trunc", "", "Don't truncate output"),
        Flag("quiet", "", "Only show image IDs", "q"),
        Flag("tree", "", "List multi-platform images as a tree"),
    ),
    most=1,
)
RM = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove one or more images",
    rm,
    (
        Flag("force", "", "Force removal of the image", "f"),
        Flag("no-prune", "", "Do not delete untagged parents"),
        Flag("platform", "strings", 'Remove only the given platform variant ("os/arch")'),
    ),
    least=1,
)
TAG = Command(
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    tag,
    least=2,
    most=2,
)
