"""Reading and writing manifests of one repository, with Docker's wording for failures."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sampan.errors import InvalidParameter, NotFound, SampanError, Unauthorized, Unavailable
from sampan.image import digest as digests
from sampan.image import manifest as manifests
from sampan.image.manifest import Descriptor, Index, InvalidManifest, Manifest
from sampan.image.reference import Reference
from sampan.registry import failures
from sampan.registry.authorizer import repository_scope
from sampan.registry.transport import Remote

ACCEPT = ", ".join((*manifests.INDEX_TYPES, *manifests.MANIFEST_TYPES))


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index as received: what names it, its bytes, and its meaning."""

    descriptor: Descriptor
    data: bytes
    value: Manifest | Index


def pull_scopes(path: str) -> tuple[str, ...]:
    return (repository_scope(path, "pull"),)


async def get(remote: Remote, ref: Reference) -> Document:
    """The document that ``ref`` names, its digest verified.

    Raises NotFound, Unauthorized, Unavailable, InvalidParameter (not a manifest that we know).
    """
    wanted = ref.digest or ref.tag or "latest"
    answer = await remote.call(
        "GET",
        f"v2/{ref.path}/manifests/{wanted}",
        scopes=pull_scopes(ref.path),
        headers={"Accept": ACCEPT},
    )
    if answer.status != 200:
        raise pull_failure(ref, answer.status, answer.body)
    expected = ref.digest or answer.headers.get("Docker-Content-Digest") or ""
    digest = digests.sha256(answer.body)
    if digests.is_digest(expected):
        algorithm = expected.partition(":")[0]
        digest = f"{algorithm}:{hashlib.new(algorithm, answer.body).hexdigest()}"
        if digest != expected:
            raise Unavailable(
                f"manifest verification failed for digest {expected}: registry "
                f"{remote.endpoint.host} sent a manifest with digest {digest}"
            )
    return document(answer.body, digest, ref)


async def exists(remote: Remote, path: str, digest: str) -> bool:
    """Whether the repository has this manifest.  Raises Unavailable."""
    answer = await remote.call(
        "HEAD",
        f"v2/{path}/manifests/{digest}",
        scopes=(repository_scope(path, "pull,push"),),
        headers={"Accept": ACCEPT},
    )
    return answer.status == 200


def document(data: bytes, digest: str, ref: Reference) -> Document:
    """Decode ``data``.  Raises InvalidParameter, naming ``ref``."""
    try:
        media_type = manifests.media_type_of(data)
        value = manifests.decode(data)
    except InvalidManifest as exc:
        raise InvalidParameter(f"cannot use {ref.familiar()}: {exc}") from exc
    return Document(Descriptor(media_type, digest, len(data)), data, value)


def pull_failure(ref: Reference, status: int, body: bytes) -> SampanError:
    """What a registry's refusal of a manifest means, as Docker words it."""
    said = failures.explain(status, body)
    codes = {entry.code for entry in failures.entries(body)}
    if status == 404:
        return NotFound(f"manifest for {ref.familiar()} not found: {said}")
    if "DENIED" in codes or status == 403:
        return NotFound(
            f"pull access denied for {ref.familiar_name}, repository does not exist or may "
            f"require 'docker login': {said}"
        )
    if status == 401:
        return Unauthorized(f"cannot pull {ref.familiar()}: {said}")
    return failures.of_status(status, body, f"pull of {ref.familiar()}")
