"""Content digests (OCI image-spec, descriptor.md#digests).

A digest is a string ``algorithm:hex``; here ``sha256`` (what we write) and ``sha512`` (what we
also accept).  It stays a plain ``str`` so that it can be a key, a JSON value and a column; the
annotation makes msgspec validate it wherever a typed model is decoded.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, TypeAlias

import msgspec

PATTERN = r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=PATTERN)]

_VALID = re.compile(PATTERN)


class InvalidDigest(ValueError):
    """The string is not a digest, or its algorithm is not supported."""


def parse(value: str) -> Digest:
    """The same string if it is a well-formed digest; raises InvalidDigest."""
    if _VALID.match(value) is None or value.endswith("\n"):
        raise InvalidDigest(f"invalid digest {value!r}: expected sha256: and 64 hex digits")
    return value


def is_digest(value: str) -> bool:
    return _VALID.match(value) is not None and not value.endswith("\n")


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def verify(data: bytes, digest: Digest) -> bool:
    """Whether ``data`` has this digest, by the digest's own algorithm."""
    algorithm, _, encoded = digest.partition(":")
    return hashlib.new(algorithm, data).hexdigest() == encoded


def split(digest: Digest) -> tuple[str, str]:
    """``("sha256", hex)``; raises InvalidDigest on anything else (so it is safe in a path)."""
    algorithm, _, encoded = parse(digest).partition(":")
    return algorithm, encoded


def short(digest: Digest) -> str:
    """The twelve hex digits that people see."""
    return digest.partition(":")[2][:12]
