"""Images as the API's documents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from sampan.image.config import RunConfig
from sampan.store.images import Image

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def summary(image: Image, *, shared_size: int, containers: int) -> dict[str, Any]:
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
    if image.manifest is not None:
        document["Descriptor"] = descriptor(image)
    return document


def inspect(image: Image, driver: str) -> dict[str, Any]:
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
    if image.manifest is not None:
        document["Descriptor"] = descriptor(image)
    return document


def descriptor(image: Image) -> dict[str, Any]:
    assert image.manifest is not None
    given = image.manifest
    return {"mediaType": given.media_type, "digest": given.digest, "size": given.size}


def manifests(image: Image, containers: Sequence[str]) -> list[dict[str, Any]]:
    """The ``Manifests`` of an image: the one that is stored."""
    if image.manifest is None:
        return []
    config = image.config
    platform = {"architecture": config.architecture, "os": config.os}
    if config.variant:
        platform["variant"] = config.variant
    return [
        {
            "ID": image.manifest.digest,
            "Descriptor": descriptor(image),
            "Available": True,
            "Size": {"Content": image.manifest.size, "Total": image.size},
            "Kind": "image",
            "ImageData": {
                "Platform": platform,
                "Containers": list(containers),
                "Size": {"Unpacked": image.size},
            },
        }
    ]


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
