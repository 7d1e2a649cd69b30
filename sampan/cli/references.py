"""Names of images, as messages show them."""

from __future__ import annotations


def familiar(name: str) -> str:
    """``docker.io/library/busybox`` as ``busybox:latest``."""
    text = name
    for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/"):
        if text.startswith(prefix):
            text = text[len(prefix) :]
            break
    if "@" not in text and ":" not in text.rpartition("/")[2]:
        text += ":latest"
    return text


def registry_of(name: str) -> str:
    """The registry's host in a name, or Docker's key for the default one."""
    first, slash, _ = name.partition("/")
    is_host = "." in first or ":" in first or first == "localhost"
    if slash and is_host and first not in ("docker.io", "index.docker.io"):
        return first
    return DEFAULT_REGISTRY


DEFAULT_REGISTRY = "https://index.docker.io/v1/"
"""The key of the default registry in the client's configuration; it is never connected to."""


def tagged(name: str) -> tuple[str, str]:
    """A name's repository, and its tag or digest (empty if it has neither)."""
    repository, at, digest = name.partition("@")
    if at:
        # A digest says more than a tag beside it.
        head, colon, tag = repository.rpartition(":")
        return (head if colon and "/" not in tag else repository), digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")


def canonical(name: str, bare: bool = False) -> str:
    """``busybox`` as ``docker.io/library/busybox:latest``; without the tag if ``bare``."""
    text = name
    first, slash, _ = name.partition("/")
    if not slash:
        text = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        text = f"docker.io/{name}"
    if not bare and "@" not in text and ":" not in text.rpartition("/")[2]:
        text += ":latest"
    return text
