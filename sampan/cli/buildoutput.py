"""What becomes of a build's result: ``--output``, ``--push`` and ``--load``."""

from __future__ import annotations

import os

from sampan import wirejson
from sampan.cli import files, references
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

TYPES = ("image", "docker", "oci", "tar", "local", "registry")
_TO_FILE = ("oci", "tar")


class Output:
    """One ``--output``: ``dest`` is empty where none is needed, ``-`` for standard output.
    ``artifact``: attestations are to be referrers of the image too."""

    __slots__ = ("artifact", "dest", "names", "type")

    def __init__(
        self, type: str, dest: str = "", names: tuple[str, ...] = (), artifact: bool = False
    ) -> None:
        self.type, self.dest, self.names, self.artifact = type, dest, names, artifact

    @property
    def keeps_image(self) -> bool:
        """Whether the image stays in the daemon's store: it does unless only its files count."""
        return self.type not in ("tar", "local")


def parse(text: str) -> Output:
    """``type=TYPE[,dest=PATH][,name=NAME][,push=true][,oci-artifact=true]``, or just a folder, or ``-`` for a tar on standard output.

    :raises Failure: an unknown type or attribute, a missing destination.
    """
    if not text:
        raise Failure("invalid output '': it is a folder, \"-\", or begins with type=", 125)
    if "=" not in text:
        return Output("tar", "-") if text == "-" else Output("local", text)
    given: dict[str, str] = {}
    import csv

    for field in next(csv.reader([text])):
        key, _, value = field.partition("=")
        key = key.strip()
        if key not in ("type", "dest", "push", "name", "oci-artifact"):
            raise Failure(f"invalid output {text!r}: unexpected attribute {key!r}", 125)
        given[key] = value
    kind = given.get("type", "")
    if kind not in TYPES:
        raise Failure(f"invalid output type {kind!r}: must be one of {', '.join(TYPES)}", 125)
    if _truth(text, given, "push"):
        kind = "registry"
    dest = given.get("dest", "")
    if kind == "local" and not dest:
        raise Failure("dest is required for the local output", 125)
    if kind in _TO_FILE and not dest:
        dest = "-"
    names = tuple(name for name in given.get("name", "").split(",") if name)
    artifact = _truth(text, given, "oci-artifact")
    if artifact and kind in ("local", "tar"):
        raise Failure(f"invalid output {text!r}: oci-artifact is for images", 125)
    return Output(kind, dest, names, artifact)


def _truth(text: str, given: dict[str, str], key: str) -> bool:
    value = given.get(key, "false").lower()
    if value in ("true", "1", "t"):
        return True
    if value in ("false", "0", "f"):
        return False
    raise Failure(f"invalid output {text!r}: {key} is true or false, not {given[key]!r}", 125)


def wanted(options: Options) -> list[Output]:
    """The outputs that the options ask for; the image alone by default.

    :raises Failure: a malformed one, or a push without a name.
    """
    found = [parse(text) for text in options["output"]]
    if options["push"]:
        found.append(Output("registry"))
    if options["load"] or not found:
        found.append(Output("image"))
    if any(output.type == "registry" for output in found) and not (
        options["tag"] or any(output.names for output in found)
    ):
        raise Failure("tag is needed when pushing to a registry: give one with --tag", 125)
    return found


def known(session: Session, outputs: list[Output]) -> set[str]:
    """The images that there are before a build whose own is not to stay."""
    if any(output.keeps_image for output in outputs):
        return set()
    return {image["Id"] for image in session.api.get("/images/json")}


def write(
    session: Session,
    outputs: list[Output],
    identifier: str,
    tags: list[str],
    *,
    known: set[str],
    epoch: str = "",
) -> None:
    """Carry the outputs out on a built image; one that nobody wants to keep is removed, if it was
    not among the ``known`` before.

    ``epoch`` (SOURCE_DATE_EPOCH) is an upper limit of the times of files.
    """
    for output in outputs:
        if output.type == "registry":
            for tag in tags:
                _push(session, tag)
        elif output.type in ("oci", "docker") and output.dest:
            query: dict[str, object] = {"names": tags or [identifier]}
            response = session.api.open("GET", "/images/get", query)
            files.save_stream(response.chunks(), _path(output.dest))
        elif output.type in ("tar", "local"):
            _file_system(session, output, identifier, epoch)
    if identifier in known or any(output.keeps_image for output in outputs):
        return
    if not session.api.get(f"/images/{identifier}/json")["RepoTags"]:
        session.api.delete(f"/images/{identifier}")


def write_metadata(session: Session, path: str, identifier: str, tags: list[str]) -> None:
    """The document of ``--metadata-file``: the image's names in full and its digests; that of its
    manifest when it has been pushed."""
    document: dict[str, object] = {"containerimage.config.digest": identifier}
    if tags:
        document["image.name"] = ",".join(references.canonical(tag) for tag in tags)
    if identifier and tags:
        described = session.api.get(f"/images/{tags[0]}/json")
        for name in described.get("RepoDigests") or ():
            document["containerimage.digest"] = name.partition("@")[2]
    with open(path, "w", encoding="utf-8") as file:
        file.write(wirejson.dumps({k: v for k, v in document.items() if v}) + "\n")


def _path(dest: str) -> str:
    return "" if dest == "-" else dest


def _push(session: Session, tag: str) -> None:
    from sampan.cli.transfer import PUSH

    PUSH.run(session, [tag])


def _file_system(session: Session, output: Output, identifier: str, epoch: str) -> None:
    """The image's files, by way of a container that is never started."""
    made = session.api.post("/containers/create", None, {"Image": identifier, "Cmd": ["-"]})
    try:
        query: dict[str, object] = {"sourcedateepoch": epoch} if epoch else {}
        response = session.api.open("GET", f"/containers/{made['Id']}/export", query)
        if output.type == "tar":
            files.save_stream(response.chunks(), _path(output.dest))
        else:
            extract(response.chunks(), output.dest)
    finally:
        session.api.delete(f"/containers/{made['Id']}", {"force": "1"})


def extract(chunks: Iterator[bytes], folder: str) -> None:
    """Unpack a tar below a folder, which is made."""
    import tarfile

    from sampan.cli.untar import unpack

    os.makedirs(folder, exist_ok=True)
    try:
        unpack(chunks, folder)
    except (tarfile.TarError, OSError) as error:
        raise Failure(f"cannot write the files to {folder}: {error}") from None
