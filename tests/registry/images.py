"""Small images made in a content store."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass

from sampan.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from sampan.store.content import ContentStore


@dataclass(frozen=True)
class Made:
    manifest: bytes
    config: bytes
    layers: list[str]


def layer(seed: int, size: int) -> tuple[bytes, str]:
    """A gzip layer with one file of ``size`` random bytes, and its diff ID."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(f"file-{seed}")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(seed).randbytes(size)))
    raw = buffer.getvalue()
    return gzip.compress(raw, 1, mtime=0), "sha256:" + hashlib.sha256(raw).hexdigest()


def make_image(
    content: ContentStore,
    sizes: list[int],
    *,
    seed: int = 0,
    docker: bool = False,
    architecture: str = "amd64",
) -> Made:
    """Write an image with layers of these sizes to ``content``."""
    blobs = [layer(seed * 1000 + i, size) for i, size in enumerate(sizes)]
    digests = [content.write_bytes(data) for data, _ in blobs]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"], "Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in blobs]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": {
                "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
                "digest": content.write_bytes(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP,
                    "digest": digest,
                    "size": len(data),
                }
                for digest, (data, _) in zip(digests, blobs, strict=True)
            ],
        }
    ).encode()
    content.write_bytes(manifest)
    return Made(manifest, config, digests)


def make_index(content: ContentStore, images: dict[str, Made]) -> bytes:
    """An OCI index over images by architecture."""
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": content.write_bytes(made.manifest),
                    "size": len(made.manifest),
                    "platform": {"architecture": architecture, "os": "linux"},
                }
                for architecture, made in images.items()
            ],
        }
    ).encode()
    content.write_bytes(index)
    return index
