"""The paths of the distribution API.  A repository's name has slashes, so they are read from the
right; and nothing reaches the hub that is not a valid name, digest, tag or id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sampan.hub import failures
from sampan.image import digest as digests
from sampan.image.reference import InvalidReference, check_tag, is_repository_path

Noun = Literal["base", "catalog", "tags", "manifests", "blobs", "uploads", "upload", "referrers"]
_UPLOAD_RE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a noun, the repository, and a tag, digest or upload id."""

    noun: Noun
    repository: str = ""
    reference: str = ""


def parse(path: str) -> Target:
    """Read the part of a path after ``/v2/``.  Raises RegistryError."""
    if path == "":
        return Target("base")
    if path in ("_catalog", "_catalog/"):
        return Target("catalog")
    parts = path.split("/")
    if len(parts) >= 3 and parts[-2:] == ["tags", "list"]:
        return Target("tags", _repository(parts[:-2]))
    if len(parts) >= 4 and parts[-3:-1] == ["blobs", "uploads"]:
        repository = _repository(parts[:-3])
        if not parts[-1]:
            return Target("uploads", repository)
        if not _UPLOAD_RE.fullmatch(parts[-1]):
            raise failures.upload_unknown(parts[-1])
        return Target("upload", repository, parts[-1])
    if len(parts) >= 3 and parts[-2:] == ["blobs", "uploads"]:
        return Target("uploads", _repository(parts[:-2]))
    if len(parts) >= 3 and parts[-2] == "manifests":
        repository = _repository(parts[:-2])
        if not parts[-1]:
            raise failures.manifest_unknown("")
        return Target("manifests", repository, _reference(parts[-1]))
    if len(parts) >= 3 and parts[-2] in ("blobs", "referrers"):
        repository = _repository(parts[:-2])
        if not digests.is_digest(parts[-1]):
            raise failures.digest_invalid("invalid digest")
        noun: Noun = "blobs" if parts[-2] == "blobs" else "referrers"
        return Target(noun, repository, parts[-1])
    raise failures.RegistryError(404, "UNSUPPORTED", "there is no such endpoint")


def _repository(parts: list[str]) -> str:
    name = "/".join(parts)
    if not is_repository_path(name):
        raise failures.name_invalid(name)
    return name


def _reference(text: str) -> str:
    if ":" in text:
        if not digests.is_digest(text):
            raise failures.digest_invalid("invalid digest")
        return text
    try:
        return check_tag(text)
    except InvalidReference:
        raise failures.manifest_invalid("invalid tag name") from None
