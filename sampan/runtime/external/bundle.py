"""Write a bundle for another runtime: our request in the runtime specification's own words.

Our requests name users (resolved here against the container's files), carry Docker's form of a
seccomp profile (already made plain by the spawner), and may bind what lies in another container's
mount namespace (attached here to a place that every runtime can bind).
"""

from __future__ import annotations

import os
import stat
from typing import Any, NamedTuple

import msgspec

from sampan.linux import mount as mounts
from sampan.linux.capabilities import mask
from sampan.runtime import confine, host, idmapped, userns
from sampan.runtime.errors import StartError
from sampan.runtime.external.command import Runtime
from sampan.runtime.rootfs import open_source
from sampan.runtime.types import KeeperRequest
from sampan.runtime.users import Identity

# The lowest that has all that we write: older runtimes refuse what is newer than themselves.
_VERSION = "1.0.2"
_PING_GROUPS = "net.ipv4.ping_group_range"
_INITS = ("docker-init", "tini-static", "catatonit")
_INIT_PLACE = "/sbin/docker-init"
_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/usr/libexec")


class Remapped(NamedTuple):
    """The user namespace (a descriptor) of a remapped container, and its numbers."""

    mapping: userns.Mapping
    user: int


def attach_root(request: KeeperRequest, runtime: Runtime, remapped: Remapped | None) -> int:
    """Mount the root file system in the bundle; returns its descriptor.  In the caller's own
    mount namespace, with which it goes."""
    for directory in (runtime.bundle, f"{runtime.bundle}/rootfs", runtime.root):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    place = f"{runtime.bundle}/rootfs"
    if remapped:
        _open_way(runtime)
        with userns.as_root_of(remapped.mapping):
            root = idmapped.root(request.rootfs, place, remapped.user)
    else:
        root = mounts.stacked(request.rootfs)
    mounts.mount_setattr(root, propagation=mounts.MS_PRIVATE)
    mounts.move_mount_to(root, place)
    return root


def _open_way(runtime: Runtime) -> None:
    """Let other users pass through the container's own directories, but not list them.

    Other runtimes reach the root file system by its path, as the container's root.  Raises
    StartError if a directory above does not let them.
    """
    for directory in (runtime.run_dir, runtime.bundle):
        os.chmod(directory, 0o711)
    above = os.path.dirname(runtime.run_dir)
    while above != "/":
        if not os.stat(above).st_mode & stat.S_IXOTH:
            raise StartError(
                f"with --userns-remap another runtime has to pass {above}, which only its owner "
                f"may: chmod o+x {above}, or use --userns host",
                125,
            )
        above = os.path.dirname(above)


def write(
    request: KeeperRequest,
    runtime: Runtime,
    root: int,
    paths: dict[str, str],
    remapped: Remapped | None,
) -> None:
    """Write ``config.json``; ``paths`` are those of the namespaces that were made."""
    root_field = {**request.spec["root"], "path": "rootfs"}
    spec = {**request.spec, "ociVersion": _VERSION, "root": root_field}
    spec["process"] = process(request.spec["process"], root)
    linux = {**request.spec["linux"]}
    linux["namespaces"] = [
        {**entry, "path": paths[entry["type"]]} if entry["type"] in paths else entry
        for entry in linux["namespaces"]
    ]
    if remapped and linux.get("sysctl"):
        linux["sysctl"] = _within(linux["sysctl"], remapped.mapping)
    spec["linux"] = linux
    spec["mounts"] = [
        _reachable(entry, runtime, number, remapped)
        for number, entry in enumerate(spec.get("mounts") or ())
    ]
    if request.init:
        spec["mounts"].append(_bind(_find_init(), _INIT_PLACE))
        spec["process"]["args"] = [_INIT_PLACE, "--", *spec["process"]["args"]]
    _write(f"{runtime.bundle}/config.json", without_nothing(spec))


def _within(sysctls: dict[str, str], mapping: userns.Mapping) -> dict[str, str]:
    """The settings with all groups that there are in the user namespace for all of the host's:
    other runtimes write them from inside, where the kernel takes no others."""
    if sysctls.get(_PING_GROUPS) != "0 2147483647":
        return sysctls
    last = max(part.inside + part.size - 1 for part in mapping.gids)
    return {**sysctls, _PING_GROUPS: f"0 {last}"}


def process(wanted: dict[str, Any], root: int) -> dict[str, Any]:
    """The process with its user in numbers, its home in its environment, and no capability that
    this host cannot give."""
    who = confine.identity(root, wanted)
    result = {**wanted, "user": _numbers(who, wanted)}
    if not any(entry.startswith("HOME=") and entry != "HOME=" for entry in wanted.get("env") or ()):
        result["env"] = [*(wanted.get("env") or ()), f"HOME={who.home}"]
    bounding = host.get().bounding
    result["capabilities"] = {
        kind: [name for name in names or () if mask([name]) & bounding]
        for kind, names in (wanted.get("capabilities") or {}).items()
    }
    return result


def _numbers(who: Identity, wanted: dict[str, Any]) -> dict[str, Any]:
    user: dict[str, Any] = {"uid": who.uid, "gid": who.gid}
    if who.groups:
        user["additionalGids"] = list(who.groups)
    umask = (wanted.get("user") or {}).get("umask")
    if umask is not None:
        user["umask"] = umask
    return user


def write_process(path: str, wanted: dict[str, Any], root: int) -> None:
    """A further process, for the runtime's ``exec --process``."""
    _write(path, without_nothing(process(wanted, root)))


def without_nothing(value: Any) -> Any:
    """The document without fields that are null: not all parsers take them for absent."""
    if isinstance(value, dict):
        return {name: without_nothing(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nothing(item) for item in value]
    return value


def _reachable(
    entry: dict[str, Any], runtime: Runtime, number: int, remapped: Remapped | None
) -> dict[str, Any]:
    """The mount with a source that every runtime can bind: what lies in another container's mount
    namespace, or is to be shown with other owners, is attached in the bundle."""
    source = str(entry.get("source") or "")
    options = mounts.parse_options(entry.get("options") or ())
    of_other = source.startswith("/proc/") and "/root/" in source
    if not of_other and not (remapped and options.bind):
        return entry
    tree = open_source(source, options.recursive)
    try:
        if remapped and "idmap" in options.data:
            userns.idmap(tree, remapped.user)
        place = f"{runtime.bundle}/mount-{number}"
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(place, mode=0o700, exist_ok=True)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        mounts.move_mount_to(tree, place)
    finally:
        os.close(tree)
    left = [option for option in entry.get("options") or () if option != "idmap"]
    return {**entry, "source": place, "options": left}


def _bind(source: str, destination: str) -> dict[str, Any]:
    options = ["bind", "rprivate", "ro"]
    return {"destination": destination, "type": "bind", "source": source, "options": options}


def _find_init() -> str:
    for name in _INITS:
        for directory in _DIRECTORIES:
            if os.access(f"{directory}/{name}", os.X_OK):
                return f"{directory}/{name}"
    raise StartError(
        "--init with another runtime than sampan needs one of the programs "
        f"{', '.join(_INITS)} on the host",
        125,
    )


def _write(path: str, document: dict[str, Any]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(document))
