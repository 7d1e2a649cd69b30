"""``--cache-from`` and ``--cache-to``: registry, local folder, inline."""

from __future__ import annotations

import json
import os
import sys

from sampan.cli.failure import Failure
from sampan.client import tarstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sampan.cli.session import Session

_KEYS = ("type", "ref", "src", "dest", "mode")


class Target:
    """One ``--cache-to``."""

    __slots__ = ("kind", "mode", "place")

    def __init__(self, kind: str, place: str, mode: str) -> None:
        self.kind, self.place, self.mode = kind, place, mode


def targets(texts: Iterable[str]) -> list[Target]:
    """``type=inline``, ``type=registry,ref=NAME[,mode=max]`` or ``type=local,dest=FOLDER``; a name
    alone is a registry's.

    :raises Failure: a malformed one.
    """
    found = []
    for text in texts:
        given = _fields(text, "cache-to")
        kind = given["type"]
        place = given.get({"registry": "ref", "local": "dest"}.get(kind, ""), "")
        if kind not in ("inline", "registry", "local"):
            raise Failure(f"invalid cache type {kind!r}: inline, registry or local", 125)
        if kind != "inline" and not place:
            need = "ref" if kind == "registry" else "dest"
            raise Failure(f"invalid cache-to {text!r}: {kind} needs {need}", 125)
        mode = given.get("mode", "min")
        if mode not in ("min", "max"):
            raise Failure(f"invalid cache mode {mode!r}: min or max", 125)
        found.append(Target(kind, place, mode))
    return found


def sources(session: Session, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of the images to learn from, and the images that were brought for it.

    :raises Failure: a malformed one.
    """
    names: list[str] = []
    brought: list[str] = []
    for text in texts:
        given = _fields(text, "cache-from")
        if given["type"] == "registry":
            if not given.get("ref"):
                raise Failure(f"invalid cache-from {text!r}: registry needs ref", 125)
            names.append(given["ref"])
        elif given["type"] == "local":
            if not given.get("src"):
                raise Failure(f"invalid cache-from {text!r}: local needs src", 125)
            try:
                identifier = load_layout(session, given["src"], "")
            except Failure as error:
                # As with a registry's cache that is not there: the build goes on without.
                sys.stderr.write(f"WARNING: no cache is taken from {given['src']}: {error}\n")
                continue
            names.append(identifier)
            brought.append(identifier)
        else:
            raise Failure(f"invalid cache type {given['type']!r}: registry or local", 125)
    return names, brought


def store(session: Session, wanted: Iterable[Target], identifier: str) -> None:
    """Bring the cache image where it is wanted; it does not stay in the daemon's store."""
    from sampan.cli import buildoutput
    from sampan.cli.transfer import PUSH

    try:
        for target in wanted:
            if target.kind == "local":
                response = session.api.open("GET", f"/images/{identifier}/get")
                buildoutput.extract(response.chunks(), target.place)
            elif target.kind == "registry":
                name, _, tag = target.place.rpartition(":")
                if not name or "/" in tag:
                    name, tag = target.place, "latest"
                session.api.post(f"/images/{identifier}/tag", {"repo": name, "tag": tag})
                try:
                    PUSH.run(session, ["-q", f"{name}:{tag}"])
                finally:
                    session.api.delete(f"/images/{name}:{tag}", {"noprune": "1"})
    finally:
        forget(session, [identifier])


def forget(session: Session, identifiers: Iterable[str]) -> None:
    """Remove images that were only needed on the way; others may have removed them."""
    from sampan.errors import SampanError

    for identifier in identifiers:
        try:
            session.api.delete(f"/images/{identifier}", {"force": "1"})
        except SampanError:
            continue


def load_layout(session: Session, folder: str, wanted: str) -> str:
    """Give an OCI layout's image to the daemon; returns its identifier.

    ``wanted`` is a tag or a digest in the layout's index, empty for its first image.

    :raises Failure: no layout there, or no such image in it.
    """
    try:
        with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
            index = json.load(file)
        entries = index["manifests"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{folder} is no OCI layout: {error}", 125) from None
    for entry in entries:
        tag = (entry.get("annotations") or {}).get("org.opencontainers.image.ref.name", "")
        if wanted in ("", entry.get("digest"), tag, tag.rpartition(":")[2]):
            break
    else:
        raise Failure(f"there is no image {wanted!r} in the OCI layout {folder}", 125)
    entry = {key: value for key, value in entry.items() if key != "annotations"}
    chunks = _layout(folder, json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    for message in session.api.messages("POST", "/images/load", {"quiet": "1"}, body=chunks):
        if "error" in message:
            raise Failure(str(message["error"]))
        text = str(message.get("stream", "")).strip()
        if text.startswith("Loaded image"):
            return text.partition(": ")[2]
    raise Failure(f"the daemon found no image in {folder}")


def _layout(folder: str, index: bytes) -> Iterator[bytes]:
    documents = ((b"oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), (b"index.json", index))
    for name, data in documents:
        yield tarstream.header(name, 0o644, size=len(data)) + data + tarstream.padding(len(data))
    yield from tarstream.tree(os.path.join(folder, "blobs"), "blobs", tarstream.Hardlinks())
    yield tarstream.END


def _fields(text: str, flag: str) -> dict[str, str]:
    if "=" not in text:
        return {"type": "registry", "ref": text}
    given: dict[str, str] = {}
    for field in text.split(","):
        key, _, value = field.partition("=")
        key = key.strip()
        if key not in _KEYS:
            raise Failure(f"invalid {flag} {text!r}: unexpected key {key!r}", 125)
        given[key] = value
    given.setdefault("type", "registry")
    return given
