"""``system diagnose``: one archive for a bug report, without secrets."""

from __future__ import annotations

import glob
import io
import os
import subprocess
import sys
import tarfile
import time
from functools import partial

from sampan import wirejson
from sampan.cli.command import Command
from sampan.cli.flags import Flag
from sampan.cli.redaction import Redactor
from sampan.client.http import quote
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_DOCUMENTS = {
    "version": "/version",
    "info": "/info",
    "disk-usage": "/system/df",
    "check": "/sampan/check",
    "containers": "/containers/json?all=1",
    "images": "/images/json?all=1",
    "volumes": "/volumes",
    "networks": "/networks",
}
_KERNEL_FILES = (
    "/proc/version",
    "/proc/cmdline",
    "/proc/filesystems",
    "/proc/cgroups",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/mounts",
    "/proc/self/cgroup",
    "/proc/pressure/memory",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/net/ipv4/ip_forward",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/kernel/security/lsm",
    "/etc/os-release",
    "/etc/resolv.conf",
    "/etc/subuid",
    "/etc/subgid",
)
_COMMANDS = {
    "network/addresses": ("ip", "-details", "address"),
    "network/routes": ("ip", "route", "show", "table", "all"),
    "network/links": ("bridge", "link"),
    "network/packet-filter": ("nft", "list", "ruleset"),
    "network/sockets": ("ss", "-lntup"),
    "kernel/modules": ("lsmod",),
    "logs/unit": ("journalctl", "-u", "sampan", "-n", "2000", "--no-pager"),
}
_CONFIGURATION = "/etc/sampan/daemon.json"
_LOG_TAIL = 512 << 10
_COMMAND_SECONDS = 10


class _Collection:
    """What goes into the archive: JSON documents first, so that their secrets are known."""

    def __init__(self) -> None:
        self.redactor = Redactor()
        self.files: dict[str, str] = {}
        self.missing: list[str] = []

    def document(self, name: str, get: Callable[[], Any]) -> Any:
        """Add ``name.json``; what cannot be had is listed instead."""
        try:
            value = get()
        except (SampanError, OSError, ValueError) as failure:
            self.missing.append(f"{name}: {failure}")
            return None
        self.files[f"{name}.json"] = wirejson.dumps(self.redactor.document(value), indent="  ")
        return value

    def text(self, name: str, get: Callable[[], str]) -> None:
        try:
            self.files[f"{name}.txt"] = get()
        except (OSError, ValueError, subprocess.SubprocessError) as failure:
            self.missing.append(f"{name}: {failure}")

    def write(self, target: Any, folder: str) -> None:
        """The archive, compressed; every text is searched for secrets once more."""
        self.files["missing.txt"] = "".join(f"{line}\n" for line in self.missing)
        now = int(time.time())
        with tarfile.open(fileobj=target, mode="w:gz") as archive:
            for name in sorted(self.files):
                clean = self.redactor.known if name.endswith(".json") else self.redactor.text
                data = clean(self.files[name]).encode("utf-8", "replace")
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size, member.mtime, member.mode = len(data), now, 0o600
                archive.addfile(member, io.BytesIO(data))


def diagnose(session: Session, options: Options, arguments: list[str]) -> int:
    """Collect, take out what is secret, and write the archive."""
    collection = _Collection()
    _engine(session, collection)
    if session.host.address.startswith("unix://"):
        _machine(session, collection)
    folder = time.strftime("sampan-diagnose-%Y%m%d-%H%M%S")
    if options["output"] == "-":
        sys.stdout.flush()
        collection.write(sys.stdout.buffer, folder)
        return 0
    path = options["output"] or f"{folder}.tar.gz"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        collection.write(file, folder)
    session.say(path)
    session.complain(
        "Values of environment variables, and what looks like a password, a key or a token, were "
        "removed. Look through the archive before you pass it on."
    )
    return 0


def _engine(session: Session, collection: _Collection) -> None:
    """What the API tells."""
    api = session.api
    found = {
        name: collection.document(name, partial(api.get, path)) for name, path in _DOCUMENTS.items()
    }
    for container in found["containers"] or ():
        path = f"/containers/{quote(container['Id'])}/json"
        collection.document(f"inspect/{container['Id'][:12]}", partial(api.get, path))
    for network in found["networks"] or ():
        path = f"/networks/{quote(network['Id'])}"
        collection.document(f"inspect/network-{network['Id'][:12]}", partial(api.get, path))


def _machine(session: Session, collection: _Collection) -> None:
    """What this machine tells, on which the daemon runs too."""
    host = session.host
    run_dir = host.run_dir or os.path.dirname(host.address.removeprefix("unix://"))
    facts = collection.document("daemon", partial(_json, f"{run_dir}/daemon.json"))
    words = _words(int(facts["pid"])) if isinstance(facts, dict) and "pid" in facts else []
    collection.document("command-line", lambda: words)
    settings = _after(words, "--config-file") or _CONFIGURATION
    if os.path.exists(settings):
        collection.document("configuration", partial(_json, settings))
    logs = [_after(words, "--log-file"), *glob.glob(f"{glob.escape(run_dir)}/daemon.log*")]
    for number, path in enumerate(path for path in logs if path):
        collection.text(f"logs/daemon-{number}", partial(_tail, path))
    for path in glob.glob(f"{glob.escape(run_dir)}/containers/*/state.json"):
        id = path.split("/")[-2][:12]
        collection.document(f"keepers/{id}", partial(_json, path))
    for path in _KERNEL_FILES:
        if os.path.exists(path):
            name = path.strip("/").replace("/", "-")
            collection.text(f"kernel/{name}", partial(_read, path))
    for name, command in _COMMANDS.items():
        collection.text(name, partial(_output, command))


def _after(words: list[str], flag: str) -> str:
    for number, word in enumerate(words):
        if word == flag and number + 1 < len(words):
            return words[number + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ""


def _words(pid: int) -> list[str]:
    try:
        return _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
    except OSError:
        return []


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _json(path: str) -> Any:
    return wirejson.loads(_read(path))


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
        return file.read().decode(errors="replace")


def _output(command: tuple[str, ...]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    return done.stdout.decode(errors="replace")


DIAGNOSE = Command(
    "[OPTIONS]",
    "Write an archive for a bug report, without secrets: the engine's state and log, containers' "
    "settings, the kernel and the network",
    diagnose,
    (
        Flag(
            "output",
            "string",
            "Archive to write, or - for standard output (default sampan-diagnose-TIME.tar.gz)",
            "o",
        ),
    ),
    most=0,
)
