"""``system migrate``: images and volumes of another engine, through its Engine API.

Images go as one archive, so that layers they share are sent once.  A volume's files are read
through a container that mounts it and never starts, on an image of nothing, and written likewise;
both are removed again.
"""

from __future__ import annotations

import sys

from sampan.cli import progress
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.client.api import Api, checked
from sampan.client.http import quote
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

SOCKETS = {
    "docker": "unix:///var/run/docker.sock",
    "podman": "unix:///run/podman/podman.sock",
}
_PLACE = "/volume"
_TAR = {"Content-Type": "application/x-tar"}
_EMPTY_TAR = bytes(10240)


def migrate(session: Session, options: Options, arguments: list[str]) -> int:
    """Copy what the other engine has and this one has not; the exit code is 1 if a part failed."""
    source = _source(session, options["from"])
    source.ping()
    session.api.ping()
    session.complain(f"Copying from {source.host.address} to {session.host.address}")
    images = [] if options["no-images"] else _missing_images(source, session.api)
    volumes = [] if options["no-volumes"] else _missing_volumes(source, session)
    if options["dry-run"]:
        for name in (f"image {name}" for name in images):
            session.say(name)
        for volume in volumes:
            session.say(f"volume {volume['Name']}")
        return 0
    failed = 0
    if images:
        failed |= _attempt(session, "the images", lambda: _copy_images(source, session, images))
    if volumes:
        with _Bridge(source) as there, _Bridge(session.api) as here:
            for volume in volumes:
                name = volume["Name"]
                failed |= _attempt(
                    session,
                    f"volume {name}",
                    lambda given=volume: _copy_volume(there, here, session, given),  # type: ignore[misc]
                )
    return failed


def _source(session: Session, name: str) -> Api:
    from sampan.client import hosts

    known = SOCKETS.get(name)
    if known is not None:
        return Api(hosts.resolve(known, config_dir=session.options["config"]))
    address = name if "://" in name or name.startswith("/") else None
    host = hosts.resolve(
        address, context="" if address else name, config_dir=session.options["config"]
    )
    if host.address == session.host.address:
        raise Failure(f"cannot migrate from {host.address}: it is the daemon to copy to", 125)
    return Api(host)


def _attempt(session: Session, what: str, act: Callable[[], None]) -> int:
    try:
        act()
    except SampanError as error:
        session.complain(f"cannot copy {what}: {error}")
        return 1
    return 0


def _missing_images(source: Api, target: Api) -> list[str]:
    """Names of images that the target has not, or has with other contents."""
    have = {
        (image["Id"], tag)
        for image in target.get("/images/json")
        for tag in image.get("RepoTags") or []
    }
    names = []
    for image in source.get("/images/json"):
        for tag in image.get("RepoTags") or []:
            if tag != "<none>:<none>" and (image["Id"], tag) not in have:
                names.append(str(tag))
    return sorted(names)


def _missing_volumes(source: Api, session: Session) -> list[dict[str, Any]]:
    have = {volume["Name"] for volume in session.api.get("/volumes").get("Volumes") or []}
    found = []
    for volume in sorted(source.get("/volumes").get("Volumes") or [], key=lambda one: one["Name"]):
        if volume["Name"] in have:
            session.complain(f"Volume {volume['Name']} exists already: left as it is")
        elif volume["Driver"] != "local":
            session.complain(
                f"Volume {volume['Name']} is left out: its files belong to driver "
                f"{volume['Driver']}"
            )
        else:
            found.append(volume)
    return found


def _copy_images(source: Api, session: Session, names: list[str]) -> None:
    archive = source.open("GET", "/images/get", {"names": names})
    with progress.Screen() as screen:
        body: Iterator[bytes] = archive.chunks()
        if screen.live:
            body = progress.counted(body, screen, "Copying images", 0)
        messages = session.api.messages("POST", "/images/load", body=body, headers=_TAR)
        for message in checked(messages):
            progress.put(screen, message)


def _copy_volume(there: _Bridge, here: _Bridge, session: Session, volume: dict[str, Any]) -> None:
    name = str(volume["Name"])
    busy = there.api.get("/containers/json", {"filters": {"volume": {name: True}}})
    if busy:
        session.complain(
            f"WARNING: volume {name} is in use by {busy[0]['Names'][0].removeprefix('/')}: "
            "files that change meanwhile may be copied half-written"
        )
    body = {
        "Name": name,
        "Driver": "local",
        "Labels": volume.get("Labels") or {},
        "DriverOpts": volume.get("Options") or {},
    }
    session.api.post("/volumes/create", json=body)
    try:
        _copy_files(there, here, name)
    except BaseException:
        session.api.delete(f"/volumes/{quote(name)}", {"force": True})
        raise
    session.say(f"Copied volume: {name}")


def _copy_files(there: _Bridge, here: _Bridge, name: str) -> None:
    with there.mounted(name) as reading, here.mounted(name) as writing:
        query = {"path": f"{_PLACE}/."}
        archive = Api(there.api.host).open("GET", f"/containers/{reading.id}/archive", query)
        screen = progress.Screen(sys.stderr)
        body: Iterator[bytes] = archive.chunks()
        if screen.live:
            body = progress.counted(body, screen, f"Copying volume {name}", 0)
        with screen:
            Api(here.api.host).open(
                "PUT",
                f"/containers/{writing.id}/archive",
                {"path": _PLACE},
                body=body,
                headers=_TAR,
            ).read()
        # A kernel that cannot mount below a root that nobody uses shows the directory instead.
        changes = here.api.get(f"/containers/{writing.id}/changes") or []
        if any(change["Path"].startswith(f"{_PLACE}/") for change in changes):
            raise Failure(
                f"cannot copy volume {name}: this kernel (Linux 6.15 is needed) does not let the "
                "daemon write to a volume without a process"
            )


class _Bridge:
    """A daemon with an image of nothing, which goes at the end."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._image = ""

    def __enter__(self) -> _Bridge:
        messages = Api(self.api.host).messages(
            "POST", "/images/create", {"fromSrc": "-"}, body=_EMPTY_TAR, headers=_TAR
        )
        for message in checked(messages):
            status = str(message.get("status") or "")
            if status.startswith("sha256:"):
                self._image = status.strip()
        return self

    def __exit__(self, *_: object) -> None:
        self.api.delete(f"/images/{quote(self._image)}", {"force": True})

    def mounted(self, volume: str) -> _Mounted:
        """A container that has ``volume`` and never runs."""
        body = {
            "Image": self._image,
            "Cmd": ["-"],
            "NetworkDisabled": True,
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [{"Type": "volume", "Source": volume, "Target": _PLACE}],
            },
        }
        return _Mounted(self.api, self.api.post("/containers/create", json=body)["Id"])


class _Mounted:
    def __init__(self, api: Api, identifier: str) -> None:
        self._api = api
        self.id = identifier

    def __enter__(self) -> _Mounted:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.delete(f"/containers/{self.id}", {"force": True})


MIGRATE = Command(
    "[OPTIONS]",
    "Copy the images and volumes of another engine (its containers and networks stay)",
    migrate,
    (
        Flag("dry-run", "", "Only say what would be copied"),
        Flag(
            "from",
            "string",
            '"docker", "podman", the address of a socket, or the name of a context',
            default="docker",
        ),
        Flag("no-images", "", "Leave images out"),
        Flag("no-volumes", "", "Leave volumes out"),
    ),
    most=0,
)
