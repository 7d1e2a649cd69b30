"""What the arguments of commands and the values of flags can be, for completion."""

from __future__ import annotations

import os

from sampan.cli.complete import FILES, FOLDERS
from sampan.cli.failure import Failure
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from sampan.cli.session import Session

    Candidates = list[tuple[str, str]]

# What each argument of a command names, in order; the last goes for all that follow.
_ARGUMENTS = {
    "completion": ("shells",),
    "container attach": ("running",),
    "container commit": ("containers", "images"),
    "container cp": ("copied",),
    "container create": ("images", ""),
    "container diff": ("containers",),
    "container exec": ("running", ""),
    "container export": ("containers",),
    "container inspect": ("containers",),
    "container kill": ("running",),
    "container logs": ("containers",),
    "container pause": ("running",),
    "container port": ("containers", ""),
    "container rename": ("containers", ""),
    "container restart": ("containers",),
    "container rm": ("containers",),
    "container run": ("images", ""),
    "container start": ("stopped",),
    "container stats": ("running",),
    "container stop": ("running",),
    "container top": ("running", ""),
    "container unpause": ("paused",),
    "container update": ("containers",),
    "container wait": ("containers",),
    "context inspect": ("contexts",),
    "context rm": ("contexts",),
    "context use": ("contexts",),
    "image bootstrap": ("bases",),
    "image build": (FOLDERS,),
    "image history": ("images",),
    "image import": (FILES, "images"),
    "image inspect": ("images",),
    "image pull": ("images",),
    "image push": ("images",),
    "image rm": ("images",),
    "image save": ("images",),
    "image tag": ("images",),
    "inspect": ("anything",),
    "login": ("registries",),
    "logout": ("registries",),
    "manifest annotate": ("images",),
    "manifest create": ("images",),
    "manifest inspect": ("images",),
    "manifest push": ("images",),
    "manifest referrers": ("images",),
    "manifest rm": ("images",),
    "network connect": ("networks", "containers"),
    "network disconnect": ("networks", "containers"),
    "network inspect": ("networks",),
    "network rm": ("networks",),
    "volume inspect": ("volumes",),
    "volume rm": ("volumes",),
}

# What the value of a flag names: a kind as above, a place on the disk, or the words themselves.
_FLAGS: dict[str, str | tuple[str, ...]] = {
    **dict.fromkeys(
        [
            "cidfile",
            "config-file",
            "device",
            "env-file",
            "file",
            "htpasswd",
            "iidfile",
            "input",
            "label-file",
            "log-file",
            "metadata-file",
            "output",
            "tls-certificate",
            "tls-key",
            "tlscacert",
            "tlscert",
            "tlskey",
            "sign-key",
            "trusted-key",
        ],
        FILES,
    ),
    **dict.fromkeys(["checkpoint-dir", "config", "root", "run-dir", "state-dir"], FOLDERS),
    "attach": ("stdin", "stdout", "stderr"),
    "cache-from": "images",
    "call": ("build", "check", "outline", "targets"),
    "cap-add": "capabilities",
    "cap-drop": "capabilities",
    "cgroupns": ("host", "private"),
    "config-from": "networks",
    "context": "contexts",
    "env": "variables",
    "filter": "filters",
    "format": ("json", "table"),
    "host": ("unix://", "tcp://", "ssh://"),
    "ipc": ("container:", "host", "none", "private", "shareable"),
    "link": "containers",
    "log-driver": "Log",
    "log-level": ("debug", "info", "warn", "error", "fatal"),
    "network": "networks",
    "pid": ("container:", "host"),
    "platform": ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/riscv64"),
    "progress": ("auto", "plain", "quiet", "rawjson", "tty"),
    "pull": ("always", "missing", "never"),
    "restart": ("always", "no", "on-failure", "unless-stopped"),
    "runtime": "runtimes",
    "security-opt": ("apparmor=", "label=", "no-new-privileges", "seccomp=", "systempaths="),
    "signal": "signals",
    "stop-signal": "signals",
    "tag": "images",
    "target": "stages",
    "ulimit": ("core=", "memlock=", "nofile=", "nproc=", "stack="),
    "userns": ("host",),
    "uts": ("host",),
    "volume": "mounted",
    "volumes-from": "containers",
}
_FLAGS_OF: dict[tuple[str, str], str | tuple[str, ...]] = {
    ("image build", "network"): ("default", "host", "none"),
    ("image build", "cache-to"): ("type=inline", "type=local,dest=", "type=registry,ref="),
    ("inspect", "type"): ("container", "image", "network", "volume"),
    ("network create", "driver"): "Network",
    ("system migrate", "from"): ("docker", "podman"),
    ("volume create", "driver"): "Volume",
}
_FILTERS = {
    "builder prune": "until",
    "container ls": "ancestor before exited expose health id label name network publish since "
    "status volume",
    "container prune": "label label! until",
    "image ls": "before dangling label reference since until",
    "image prune": "dangling label label! until",
    "network ls": "driver dangling id label name scope type",
    "network prune": "label label! until",
    "search": "is-official stars",
    "system events": "container event image label network type volume",
    "system prune": "label label! until",
    "volume ls": "dangling driver label name",
    "volume prune": "all label label!",
}
_FILTER_VALUES: dict[str, str | tuple[str, ...]] = {
    "ancestor": "images",
    "before": "containers",
    "container": "containers",
    "dangling": ("true", "false"),
    "health": ("healthy", "none", "starting", "unhealthy"),
    "image": "images",
    "is-official": ("true", "false"),
    "name": "containers",
    "network": "networks",
    "scope": ("local", "global", "swarm"),
    "since": "containers",
    "status": ("created", "dead", "exited", "paused", "removing", "restarting", "running"),
    "volume": "volumes",
}
_OTHER_FILTER_VALUES: dict[tuple[str, str], str | tuple[str, ...]] = {
    ("image ls", "before"): "images",
    ("image ls", "since"): "images",
    ("image ls", "reference"): "images",
    ("network ls", "name"): "networks",
    ("network ls", "type"): ("builtin", "custom"),
    ("system events", "type"): ("builder", "container", "daemon", "image", "network", "volume"),
    ("volume ls", "name"): "volumes",
}


class Source:
    """Knows the words that one command takes.  Of a daemon it tells what there is, if one runs:
    none is started."""

    def __init__(self, session: Session, key: str) -> None:
        self._session = session
        self._key = "image build" if key == "builder build" else key

    def of_argument(self, before: list[str], last: str) -> Candidates:
        """What the argument after ``before`` can be, without those that are named already."""
        kinds = _ARGUMENTS.get(self._key, ("",))
        kind = kinds[min(len(before), len(kinds) - 1)]
        most = self._most()
        if most is not None and len(before) >= most:
            return []
        return [one for one in self._of(kind, last) if one[0] not in before]

    def of_flag(self, name: str, last: str) -> Candidates:
        """What the value of the flag can be."""
        return self._of(_FLAGS_OF.get((self._key, name)) or _FLAGS.get(name, ""), last)

    def _most(self) -> int | None:
        from sampan.cli.main import command_of

        return command_of(self._key).most if self._key else None

    def _of(self, kind: str | tuple[str, ...], last: str) -> Candidates:
        if isinstance(kind, tuple):
            return [(word, "") for word in kind]
        if kind in (FILES, FOLDERS):
            return [(kind, "")]
        find = _KINDS.get(kind)
        if find is None:
            return []
        try:
            return find(self, last)
        except (Failure, SampanError, OSError):
            return []

    def _ask(self, path: str, query: dict[str, object] | None = None) -> Any:
        """What the daemon answers; fails if none runs."""
        from sampan.client.dial import dial

        dial(self._session.host).close()
        return self._session.api.get(path, query)

    def _containers(self, *states: str) -> Candidates:
        from sampan.cli.ps import names_of

        return [
            (names_of(one).partition(",")[0], f"{one['Image']} {one['Status']}".rstrip())
            for one in self._ask("/containers/json", {"all": True})
            if not states or one["State"] in states
        ]

    def _images(self, _: str) -> Candidates:
        found: Candidates = []
        for one in self._ask("/images/json"):
            identifier = one["Id"].removeprefix("sha256:")[:12]
            names = [name for name in one.get("RepoTags") or () if name != "<none>:<none>"]
            found += [(name, identifier) for name in names or [identifier]]
        return found

    def _networks(self, last: str) -> Candidates:
        if last.startswith("container:"):
            return [(f"container:{name}", text) for name, text in self._containers()]
        found = [(one["Name"], one["Driver"]) for one in self._ask("/networks")]
        return [*found, ("container:", "")] if self._key.startswith("container ") else found

    def _volumes(self, _: str) -> Candidates:
        volumes = self._ask("/volumes").get("Volumes") or []
        return [(one["Name"], one["Driver"]) for one in volumes]

    def _anything(self, last: str) -> Candidates:
        found = [*self._containers(), *self._images(last)]
        return [*found, *self._networks(last), *self._volumes(last)]

    def _copied(self, last: str) -> Candidates:
        """A container's path, or a file here."""
        return [*((f"{name}:", text) for name, text in self._containers()), (FILES, "")]

    def _mounted(self, last: str) -> Candidates:
        """A volume or a folder here; where it goes is not known."""
        if ":" in last:
            return []
        return [*((f"{name}:", text) for name, text in self._volumes(last)), (FOLDERS, "")]

    def _contexts(self, _: str) -> Candidates:
        from sampan.client.contexts import all_contexts

        found = all_contexts(self._session.config_dir)
        return [("default", ""), *((one.name, one.description) for one in found)]

    def _registries(self, _: str) -> Candidates:
        return [(name, "") for name in self._session.config.get("auths") or {}]

    def _plugins(self, kind: str) -> Candidates:
        return [(name, "") for name in self._ask("/info")["Plugins"].get(kind) or ()]

    def _runtimes(self, _: str) -> Candidates:
        return [(name, "") for name in self._ask("/info")["Runtimes"]]

    def _filters(self, last: str) -> Candidates:
        keys = _FILTERS.get(self._key, "").split()
        name, equals, value = last.partition("=")
        if not equals:
            return [(f"{key}=", "") for key in keys]
        kind = _OTHER_FILTER_VALUES.get((self._key, name)) or _FILTER_VALUES.get(name, "")
        found = self._of(kind, value) if name in keys else []
        return [(f"{name}={word}", text) for word, text in found]

    def _stages(self, _: str) -> Candidates:
        """The named stages of the Dockerfile here."""
        try:
            with open("Dockerfile", encoding="utf-8", errors="replace") as file:
                lines = [line.split() for line in file]
        except OSError:
            return []
        return [
            (words[-1], " ".join(words[1:-2]))
            for words in lines
            if len(words) > 3 and words[0].upper() == "FROM" and words[-2].upper() == "AS"
        ]


def _capabilities() -> Iterable[str]:
    from sampan.linux.capabilities import NAMES

    return ("ALL", *(name.removeprefix("CAP_") for name in NAMES))


def _signals() -> Iterable[str]:
    from signal import Signals

    return (one.name for one in Signals)


def _plain(words: Callable[[], Iterable[str]]) -> Callable[[Source, str], Candidates]:
    return lambda source, last: [(word, "") for word in words()]


_KINDS: dict[str, Callable[[Source, str], Candidates]] = {
    "Log": lambda source, _: source._plugins("Log"),
    "Network": lambda source, _: source._plugins("Network"),
    "Volume": lambda source, _: source._plugins("Volume"),
    "anything": Source._anything,
    "bases": _plain(lambda: ("busybox", "debian:bookworm", "debian:sid", "debian:trixie")),
    "capabilities": _plain(_capabilities),
    "containers": lambda source, _: source._containers(),
    "contexts": Source._contexts,
    "copied": Source._copied,
    "filters": Source._filters,
    "images": Source._images,
    "mounted": Source._mounted,
    "networks": Source._networks,
    "paused": lambda source, _: source._containers("paused"),
    "registries": Source._registries,
    "running": lambda source, _: source._containers("running", "paused", "restarting"),
    "runtimes": Source._runtimes,
    "shells": _plain(lambda: ("bash", "fish", "zsh")),
    "signals": _plain(_signals),
    "stages": Source._stages,
    "stopped": lambda source, _: source._containers("created", "exited", "dead"),
    "variables": _plain(lambda: sorted(os.environ)),
    "volumes": Source._volumes,
}
