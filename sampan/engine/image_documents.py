"""Images as the API's documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from sampan.image.config import RunConfig
from sampan.image.manifest import Descriptor
from sampan.store.images import Image

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ATTESTED = "vnd.docker.reference.digest"
ZERO_TIME = "0001-01-01T00:00:00Z"

_ALWAYS_THERE: dict[str, Any] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
_OF_IMAGES = (
    *_ALWAYS_THERE,
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "StopSignal",
    "Shell",
)


def run_config(config: RunConfig) -> dict[str, Any]:
    """The ``Config`` of an image: what is OCI's or Docker's extension of it."""
    given = msgspec.to_builtins(config)
    return _ALWAYS_THERE | {key: given[key] for key in _OF_IMAGES if key in given}


class _Labels(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class _JustLabels(msgspec.Struct):
    config: _Labels | None = None


_just_labels = msgspec.json.Decoder(_JustLabels)


def labels(image: Image) -> dict[str, str] | None:
    """The image's labels, without decoding the rest of a configuration that may be long."""
    try:
        config = _just_labels.decode(image.raw_config).config
    except msgspec.DecodeError:
        return image.config.config.labels
    return config.labels if config else None


def unix_seconds(text: str | None) -> int:
    """Seconds since the epoch of an RFC 3339 time; 0 for anything else."""
    try:
        age = datetime.fromisoformat(text or "") - _EPOCH
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return 0
    return age.days * 86400 + age.seconds


def summary(
    image: Image, described: Descriptor | None, *, shared_size: int, containers: int
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "Containers": containers,
        "Created": unix_seconds(image.created),
        "Id": image.id,
        "Labels": labels(image),
        "ParentId": image.parent or "",
        "RepoDigests": list(image.repo_digests),
        "RepoTags": list(image.repo_tags),
        "SharedSize": shared_size,
        "Size": image.size,
    }
    if described is not None:
        document["Descriptor"] = descriptor(described)
    return document


def inspect(image: Image, described: Descriptor | None, driver: str) -> dict[str, Any]:
    config = image.config
    document: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": image.parent or "",
        "Comment": config.comment or (config.history[-1].comment if config.history else ""),
        "Created": image.created or ZERO_TIME,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": run_config(config.config),
        "Architecture": config.architecture,
    }
    if config.variant:
        document["Variant"] = config.variant
    document |= {
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": driver},
        "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
        "Metadata": {"LastTagTime": ZERO_TIME},
    }
    if config.os_version:
        document["OsVersion"] = config.os_version
    if described is not None:
        document["Descriptor"] = descriptor(described)
    return document


def descriptor(given: Descriptor) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "mediaType": given.media_type,
        "digest": given.digest,
        "size": given.size,
    }
    if given.annotations:
        shown["annotations"] = given.annotations
    if given.platform is not None:
        shown["platform"] = msgspec.to_builtins(given.platform)
    return shown


def manifests(
    entries: Sequence[tuple[Descriptor | None, Image | None]],
    users: Callable[[Image], Sequence[str]],
    content: Callable[[Image], int],
) -> list[dict[str, Any]]:
    """The ``Manifests`` of an image: entries of its index with the images that are here, or just
    the image when it came without an index.  ``users`` are the ids of an image's containers,
    ``content`` the bytes of its blobs."""
    found = []
    for entry, image in entries:
        described = entry or (image.manifest if image else None)
        if described is None:
            continue
        subject = described.annotations.get(_ATTESTED)
        blobs = described.size + content(image) if image else 0
        row: dict[str, Any] = {
            "ID": described.digest,
            "Descriptor": descriptor(described),
            "Available": image is not None,
            "Size": {"Content": blobs, "Total": blobs + (image.size if image else 0)},
            "Kind": "attestation" if subject else "image",
        }
        if subject:
            row["AttestationData"] = {"For": subject}
        else:
            row["ImageData"] = {
                "Platform": _platform(image, described),
                "Containers": list(users(image)) if image else [],
                "Size": {"Unpacked": image.size if image else 0},
            }
        found.append(row)
    return found


def _platform(image: Image | None, described: Descriptor) -> dict[str, Any]:
    if image is None:
        return msgspec.to_builtins(described.platform) if described.platform else {}
    config = image.config
    platform = {"architecture": config.architecture, "os": config.os}
    if config.variant:
        platform["variant"] = config.variant
    return platform


def history(image: Image, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The history's rows, newest first; ``sizes`` of the layers, lowest first."""
    remaining = iter(sizes)
    rows = []
    for entry in image.config.history:
        rows.append(
            {
                "Comment": entry.comment,
                "Created": unix_seconds(entry.created),
                "CreatedBy": entry.created_by,
                "Id": "<missing>",
                "Size": 0 if entry.empty_layer else next(remaining, 0),
                "Tags": None,
            }
        )
    rows.reverse()
    return rows
