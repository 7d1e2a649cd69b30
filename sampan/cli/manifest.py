"""``manifest``: lists of images for several platforms, made on the client and pushed.

A list that is being made is a folder of ``manifests`` in the client's configuration, with one
file for each image, in the form and under the names that docker's client uses.
"""

from __future__ import annotations

import os
import shutil
import sys

from sampan import wirejson
from sampan.cli import credentials
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.references import canonical
from sampan.client.http import quote
from sampan.errors import NotFound, SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
LISTS = (DOCKER_LIST, OCI_INDEX)


# The lists being made.


def _folder(session: Session, name: str) -> str:
    return os.path.join(session.config_dir, "manifests", _safe(canonical(name)))


def _safe(name: str) -> str:
    return name.replace(":", "-").replace("/", "_")


def _members(session: Session, name: str) -> list[dict[str, Any]]:
    """The images of a list that is being made; raises Failure when there is none."""
    folder = _folder(session, name)
    if not os.path.isdir(folder):
        raise Failure(f"No such manifest: {canonical(name)}")
    found = []
    for entry in sorted(os.listdir(folder)):
        with open(os.path.join(folder, entry), "rb") as file:
            found.append(wirejson.loads(file.read()))
    return found


def _keep(session: Session, name: str, member: dict[str, Any]) -> None:
    folder = _folder(session, name)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    path = os.path.join(folder, _safe(canonical(member["Ref"])))
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(wirejson.dumps(member))
    os.replace(path + ".new", path)


# What a registry has.


def _fetch(session: Session, name: str, insecure: bool) -> tuple[dict[str, Any], bytes]:
    """The descriptor and the bytes of a manifest in its registry."""
    response = session.api.open(
        "GET",
        f"/distribution/{quote(name)}/manifest",
        {"insecure": insecure},
        headers=credentials.header(session, name),
    )
    data = response.read()
    descriptor = {
        "mediaType": response.headers.get("content-type", ""),
        "digest": response.headers.get("docker-content-digest", ""),
        "size": len(data),
    }
    return descriptor, data


def _image(session: Session, name: str, insecure: bool) -> dict[str, Any]:
    """An image in its registry as a member of a list."""
    descriptor, data = _fetch(session, name, insecure)
    if descriptor["mediaType"] in LISTS:
        raise Failure(f"{canonical(name)} is a manifest list")
    answer = session.api.call(
        "GET",
        f"/distribution/{quote(name)}/json",
        {"insecure": insecure},
        headers=credentials.header(session, name),
    )
    platforms = answer.get("Platforms") or [{}]
    descriptor["platform"] = platforms[0]
    kind = "SchemaV2Manifest" if descriptor["mediaType"] == DOCKER_MANIFEST else "OCIManifest"
    return {"Ref": canonical(name), "Descriptor": descriptor, kind: wirejson.loads(data)}


# The commands.


def create(session: Session, options: Options, arguments: list[str]) -> int:
    """Begin a list, or add to it."""
    name, *images = arguments
    if os.path.isdir(_folder(session, name)) and not options["amend"]:
        raise Failure("refusing to amend an existing manifest list with no --amend flag")
    found = [_image(session, image, options["insecure"]) for image in images]
    for member in found:
        _keep(session, name, member)
    session.say(f"Created manifest list {canonical(name)}")
    return 0


def annotate(session: Session, options: Options, arguments: list[str]) -> int:
    """Say which platform an image of a list is for."""
    name, image = arguments
    for member in _members(session, name):
        if member["Ref"] == canonical(image):
            break
    else:
        raise Failure(f"manifest for image {image} does not exist in {name}")
    platform = dict(member["Descriptor"].get("platform") or {})
    for flag, key in (
        ("os", "os"),
        ("arch", "architecture"),
        ("variant", "variant"),
        ("os-version", "os.version"),
    ):
        if options[flag]:
            platform[key] = options[flag]
    if options["os-features"]:
        known = list(platform.get("os.features") or [])
        platform["os.features"] = known + [f for f in options["os-features"] if f not in known]
    if not platform.get("os") or not platform.get("architecture"):
        raise Failure("manifest entry for image has no os/architecture: give --os and --arch")
    member["Descriptor"]["platform"] = platform
    _keep(session, name, member)
    return 0


def inspect(session: Session, options: Options, arguments: list[str]) -> int:
    """Print an image's manifest, or a list."""
    *lists, name = arguments
    if lists:
        for member in _members(session, lists[0]):
            if member["Ref"] == canonical(name):
                return _print(_shown(member, options["verbose"]))
        raise Failure(f"No such manifest: {name} in {lists[0]}")
    if os.path.isdir(_folder(session, name)):
        members = _members(session, name)
        return _print(members if options["verbose"] else _index(members))
    try:
        descriptor, data = _fetch(session, name, options["insecure"])
    except NotFound as error:
        raise Failure(f"no such manifest: {canonical(name)} ({error})") from None
    if not options["verbose"]:
        return _print(wirejson.loads(data))
    if descriptor["mediaType"] not in LISTS:
        return _print(_image(session, name, options["insecure"]))
    repository = canonical(name, True).partition("@")[0]
    if "/" in repository and ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    found = []
    for entry in wirejson.loads(data)["manifests"]:
        member = _image(session, f"{repository}@{entry['digest']}", options["insecure"])
        member["Descriptor"]["platform"] = entry.get("platform") or {}
        found.append(member)
    return _print(found)


def _shown(member: dict[str, Any], verbose: bool) -> Any:
    return member if verbose else member.get("SchemaV2Manifest") or member.get("OCIManifest")


def _print(value: Any) -> int:
    sys.stdout.write(wirejson.dumps(value, "\t") + "\n")
    return 0


def _index(members: list[dict[str, Any]]) -> dict[str, Any]:
    """The list as a document: Docker's kind, unless an image of it is OCI's."""
    if not members:
        raise Failure("the manifest list is empty")
    docker = all(member["Descriptor"]["mediaType"] == DOCKER_MANIFEST for member in members)
    keys = ("mediaType", "size", "digest", "platform")
    entries = []
    for member in members:
        descriptor = member["Descriptor"]
        platform = descriptor.get("platform") or {}
        if not platform.get("architecture") or not platform.get("os"):
            raise Failure(
                f"manifest {member['Ref']} must have an OS and Architecture to be pushed to a "
                "registry: say them with manifest annotate"
            )
        entries.append({key: descriptor[key] for key in keys})
    kind = DOCKER_LIST if docker else OCI_INDEX
    return {"schemaVersion": 2, "mediaType": kind, "manifests": entries}


def push(session: Session, options: Options, arguments: list[str]) -> int:
    """Upload a list; its images are mounted or copied from their repositories."""
    name = arguments[0]
    members = _members(session, name)
    answer = session.api.call(
        "PUT",
        f"/distribution/{quote(name)}/manifest",
        {"insecure": options["insecure"]},
        json={
            "manifest": wirejson.dumps(_index(members), "   "),
            "sources": {member["Descriptor"]["digest"]: member["Ref"] for member in members},
        },
        headers=credentials.header(session, name),
    )
    session.say(answer["Digest"])
    if options["purge"]:
        shutil.rmtree(_folder(session, name))
    return 0


def rm(session: Session, options: Options, arguments: list[str]) -> int:
    """Forget lists that were being made."""
    failures = []
    for name in arguments:
        folder = _folder(session, name)
        if os.path.isdir(folder):
            shutil.rmtree(folder)
        else:
            failures.append(f"No such manifest: {name}")
    if failures:
        raise Failure("\n".join(failures))
    return 0


def referrers(session: Session, options: Options, arguments: list[str]) -> int:
    """Print what a registry has about an image: signatures, attestations."""
    name = arguments[0]
    try:
        response = session.api.open(
            "GET",
            f"/distribution/{quote(name)}/referrers",
            {"artifactType": options["artifact-type"] or None},
            headers=credentials.header(session, name),
        )
    except SampanError as error:
        raise Failure(str(error)) from None
    return _print(wirejson.loads(response.read()))


_INSECURE = Flag("insecure", "", "Allow communication with an insecure registry")
CREATE = Command(
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    "Create a local manifest list for annotating and pushing to a registry",
    create,
    (Flag("amend", "", "Amend an existing manifest list", "a"), _INSECURE),
    least=2,
)
ANNOTATE = Command(
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    "Add additional information to a local image manifest",
    annotate,
    (
        Flag("arch", "string", "Set architecture"),
        Flag("os", "string", "Set operating system"),
        Flag("os-features", "strings", "Set operating system feature"),
        Flag("os-version", "string", "Set operating system version"),
        Flag("variant", "string", "Set architecture variant"),
    ),
    least=2,
    most=2,
)
INSPECT = Command(
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    "Display an image manifest, or manifest list",
    inspect,
    (
        _INSECURE,
        Flag("verbose", "", "Output additional info including layers and platform", "v"),
    ),
    least=1,
    most=2,
)
PUSH = Command(
    "[OPTIONS] MANIFEST_LIST",
    "Push a manifest list to a repository",
    push,
    (_INSECURE, Flag("purge", "", "Remove the local manifest list after push", "p")),
    least=1,
    most=1,
)
RM = Command(
    "MANIFEST_LIST [MANIFEST_LIST...]",
    "Delete one or more manifest lists from local storage",
    rm,
    least=1,
)
REFERRERS = Command(
    "[OPTIONS] MANIFEST",
    "Display the manifests in a registry that refer to one (signatures, attestations)",
    referrers,
    (Flag("artifact-type", "string", "Only those of this type"),),
    least=1,
    most=1,
)
