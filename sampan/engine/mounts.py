"""Mounts of a container: from what a request says to what the runtime does.

Pure: reads ``Binds``, ``Mounts``, ``Tmpfs`` and ``Volumes`` with Docker's rules and messages into
:class:`ContainerMount` values, and those into mounts of an OCI runtime specification.  Whether a
path or a volume exists is the business of :mod:`sampan.engine.volumes`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sampan.engine.types import Document, HostConfig, MountPoint, MountRequest
from sampan.errors import InvalidParameter

LOCAL = "local"
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_LABEL_MODES = ("z", "Z")
_COPY_MODES = ("nocopy",)
_CONSISTENCIES = ("consistent", "cached", "delegated", "default")
_TMPFS_FLAGS = frozenset(
    (
        *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async"),
        *("dirsync", "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime"),
        *("norelatime", "strictatime", "nostrictatime", "defaults", *_PROPAGATIONS),
    )
)
_TMPFS_VALUES = frozenset(("mode", "uid", "gid", "size", "nr_inodes", "nr_blocks", "mpol"))


class ContainerMount(Document, frozen=True):
    """One mount of a container, as it is stored with it.

    ``point`` is what ``inspect`` shows.  ``options`` are OCI mount options.  ``copy`` asks that an
    empty volume be filled from the image.  ``create`` makes a missing bind source a directory.
    ``subpath`` is a path inside the volume or image.  ``anonymous`` volumes are removed with the
    container when the client says so.  ``shown`` is false for what Docker leaves out of inspect
    (``--tmpfs``).  ``image_id`` is the image that an image mount was resolved to.
    """

    point: MountPoint
    options: tuple[str, ...] = ()
    copy: bool = False
    create: bool = False
    subpath: str = ""
    anonymous: bool = False
    shown: bool = True
    image_id: str = ""
    labels: dict[str, str] | None = None
    driver_options: dict[str, str] | None = None

    @property
    def destination(self) -> str:
        return self.point.destination


@dataclass(frozen=True, slots=True)
class VolumesFrom:
    """``--volumes-from CONTAINER[:MODE]``; ``read_only`` None keeps each mount's own mode."""

    container: str
    read_only: bool | None


def parse_volumes_from(text: str) -> VolumesFrom:
    """Read one ``VolumesFrom`` entry.  Raises InvalidParameter for an unknown mode."""
    container, colon, mode = text.partition(":")
    if not container:
        raise InvalidParameter("volumes-from specification must contain a container name")
    if not colon:
        return VolumesFrom(container, None)
    words = mode.split(",")
    if any(word not in ("ro", "rw", *_LABEL_MODES) for word in words):
        raise InvalidParameter(f"invalid mode: {mode}")
    return VolumesFrom(container, "ro" in words)


def inherit(mount: ContainerMount, wish: VolumesFrom) -> ContainerMount:
    """The same mount in a container made with ``--volumes-from``."""
    if wish.read_only is None:
        return msgspec.structs.replace(mount, anonymous=False)
    rw = mount.point.rw and not wish.read_only
    point = msgspec.structs.replace(mount.point, rw=rw, mode="" if rw else "ro")
    kept = [option for option in mount.options if option not in ("ro", "rw")]
    options = (*kept, "rw" if rw else "ro")
    return msgspec.structs.replace(mount, point=point, options=options, anonymous=False)


def from_host_config(host: HostConfig) -> list[ContainerMount]:
    """Binds, then mounts, then tmpfs of ``host``.

    An anonymous volume has an empty ``point.name``.  Raises InvalidParameter for a malformed entry
    and for two entries with one destination.
    """
    driver = host.volume_driver or LOCAL
    found = [parse_bind(text, driver) for text in host.binds or ()]
    found += [from_request(request, driver) for request in host.mounts or ()]
    found += [from_tmpfs(path, options) for path, options in (host.tmpfs or {}).items()]
    check_duplicates(found)
    return found


def from_volumes(
    destinations: Iterable[str], taken: Iterable[ContainerMount], driver: str
) -> list[ContainerMount]:
    """Anonymous volumes for ``destinations`` where none of ``taken`` is mounted already."""
    used = {mount.destination for mount in taken}
    found = []
    for text in destinations:
        destination = _destination(text, "volume", text)
        if destination not in used:
            used.add(destination)
            found.append(_volume("", destination, driver, mode="", rw=True, copy=True))
    return found


def check_duplicates(mounts: Iterable[ContainerMount]) -> None:
    """Raises InvalidParameter when two mounts have one destination."""
    seen: set[str] = set()
    for mount in mounts:
        if mount.destination in seen:
            raise InvalidParameter(f"Duplicate mount point: {mount.destination}")
        seen.add(mount.destination)


def parse_bind(text: str, driver: str = LOCAL) -> ContainerMount:
    """Read ``[SOURCE:]DESTINATION[:MODE]``.  Raises InvalidParameter with Docker's wording."""
    parts = text.split(":", 2)
    if parts[0] == "" or any(":" in part for part in parts):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    if len(parts) == 2 and _is_mode(parts[1]):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source = parts[0] if len(parts) > 1 else ""
    destination = _destination(
        parts[-1] if len(parts) < 3 else parts[1], "bind" if source[:1] == "/" else "volume", text
    )
    mode = parts[2] if len(parts) == 3 else ""
    words = [word for word in mode.split(",") if word]
    if source.startswith("/"):
        _check_mode(mode, (*_PROPAGATIONS, *_CONSISTENCIES))
        propagation = next((word for word in words if word in _PROPAGATIONS), "rprivate")
        return _bind(
            posixpath.normpath(source),
            destination,
            rw="ro" not in words,
            mode=mode,
            propagation=propagation,
            create=True,
        )
    _check_mode(mode, (*_COPY_MODES, *_CONSISTENCIES))
    if source:
        check_volume_name(source)
    shown_mode = mode or ("z" if source else "")
    return _volume(
        source,
        destination,
        driver,
        mode=shown_mode,
        rw="ro" not in words,
        copy="nocopy" not in words,
    )


def from_request(request: MountRequest, driver: str = LOCAL) -> ContainerMount:
    """Read one ``--mount``.  Raises InvalidParameter with Docker's wording."""
    kind = request.type

    def wrong(reason: str) -> InvalidParameter:
        return InvalidParameter(f'invalid mount config for type "{kind}": {reason}')

    if kind not in ("bind", "volume", "tmpfs", "image"):
        if kind in ("npipe", "cluster"):
            raise InvalidParameter(f"mount type {kind!r} is not supported on Linux without a swarm")
        raise InvalidParameter(f"mount type unknown: {kind!r}")
    for option, owner in (
        ("bind_options", "bind"),
        ("volume_options", "volume"),
        ("tmpfs_options", "tmpfs"),
        ("image_options", "image"),
    ):
        if owner != kind and getattr(request, option) is not None:
            name = option.split("_")[0].capitalize() + "Options"
            raise wrong(f"field {name} must not be specified")
    if not request.target:
        raise wrong("field Target must not be empty")
    destination = posixpath.normpath(request.target)
    if not destination.startswith("/"):
        raise wrong(f"invalid mount path: '{request.target}' mount path must be absolute")
    destination = "/" + destination.lstrip("/")
    if destination == "/":
        raise wrong("invalid specification: destination can't be '/'")
    if request.consistency and request.consistency not in _CONSISTENCIES:
        raise wrong(f"invalid consistency mode: {request.consistency!r}")
    if kind == "bind":
        return _bind_request(request, destination, wrong)
    if kind == "volume":
        return _volume_request(request, destination, driver, wrong)
    if kind == "image":
        if not request.source:
            raise wrong("field Source must not be empty")
        subpath = request.image_options.subpath if request.image_options else ""
        point = MountPoint(type="image", source=request.source, destination=destination, rw=False)
        # An image cannot be changed: whatever the request says, it is mounted read-only.
        options = ("rbind", "rprivate", "ro")
        return ContainerMount(point=point, options=options, subpath=_subpath(subpath, wrong))
    if request.source:
        raise wrong("field Source must not be specified")
    return _tmpfs_request(request, destination, wrong)


def from_tmpfs(path: str, options: str) -> ContainerMount:
    """Read one ``--tmpfs PATH[:OPTIONS]``.  Raises InvalidParameter for an unknown option."""
    destination = _destination(path, "tmpfs", path)
    words = [word for word in options.split(",") if word]
    for word in words:
        name, equals, _ = word.partition("=")
        if (equals and name not in _TMPFS_VALUES) or (not equals and name not in _TMPFS_FLAGS):
            raise InvalidParameter(f'invalid tmpfs option ["{word}"]')
    point = MountPoint(type="tmpfs", destination=destination, rw="ro" not in words, mode=options)
    return ContainerMount(point=point, options=("noexec", "nosuid", "nodev", *words), shown=False)


def check_volume_name(name: str) -> str:
    """Return ``name`` if a local volume may have it; raise InvalidParameter otherwise."""
    if not _VOLUME_NAME.fullmatch(name):
        if len(name) < 2 and re.fullmatch("[a-zA-Z0-9]*", name):
            raise InvalidParameter(
                "volume name is too short, names should be at least two alphanumeric characters"
            )
        raise InvalidParameter(
            f'"{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )
    return name


def to_spec(mounts: Iterable[ContainerMount], sources: Mapping[str, str]) -> list[dict[str, Any]]:
    """OCI mounts, parents before children; ``sources`` maps destinations to host paths."""
    spec = []
    for mount in sorted(mounts, key=lambda m: m.destination.count("/")):
        if mount.point.type == "tmpfs":
            entry = {"destination": mount.destination, "type": "tmpfs", "source": "tmpfs"}
        else:
            source = sources[mount.destination]
            entry = {"destination": mount.destination, "type": "bind", "source": source}
        spec.append({**entry, "options": list(mount.options)})
    return spec


def _bind(
    source: str,
    destination: str,
    *,
    rw: bool,
    mode: str,
    propagation: str,
    create: bool,
    recursive: bool = True,
    below_too: bool = True,
) -> ContainerMount:
    """A bind; a read-only one makes what is mounted below it read-only as well if ``below_too``."""
    point = MountPoint(
        type="bind",
        source=source,
        destination=destination,
        mode=mode,
        rw=rw,
        propagation=propagation,
    )
    options = ["rbind" if recursive else "bind", propagation, "rw" if rw else "ro"]
    if recursive and below_too and not rw:
        options.append("rro")
    return ContainerMount(point=point, options=tuple(options), create=create)


def _volume(
    name: str,
    destination: str,
    driver: str,
    *,
    mode: str,
    rw: bool,
    copy: bool,
    subpath: str = "",
    labels: dict[str, str] | None = None,
    driver_options: dict[str, str] | None = None,
) -> ContainerMount:
    point = MountPoint(
        type="volume", name=name, destination=destination, driver=driver, mode=mode, rw=rw
    )
    return ContainerMount(
        point=point,
        options=("rbind", "rprivate", "rw" if rw else "ro"),
        copy=copy,
        subpath=subpath,
        anonymous=not name,
        labels=labels,
        driver_options=driver_options,
    )


def _bind_request(request: MountRequest, destination: str, wrong: Any) -> ContainerMount:
    if not request.source:
        raise wrong("field Source must not be empty")
    if not request.source.startswith("/"):
        raise wrong(f"invalid mount path: '{request.source}' mount path must be absolute")
    options = request.bind_options
    propagation = (options.propagation if options else "") or "rprivate"
    if propagation not in _PROPAGATIONS:
        raise wrong(f"invalid propagation mode: {propagation}")
    if options:
        if options.read_only_non_recursive and options.read_only_force_recursive:
            raise wrong("ReadOnlyForceRecursive is incompatible with ReadOnlyNonRecursive")
        if options.read_only_force_recursive and (not request.read_only or options.non_recursive):
            raise wrong("ReadOnlyForceRecursive requires a recursive read-only mount")
        if options.read_only_force_recursive and propagation != "rprivate":
            raise wrong("ReadOnlyForceRecursive requires the propagation rprivate")
    return _bind(
        posixpath.normpath(request.source),
        destination,
        rw=not request.read_only,
        mode="",
        propagation=propagation,
        create=bool(options and options.create_mountpoint),
        recursive=not (options and options.non_recursive),
        below_too=not (options and options.read_only_non_recursive),
    )


def _volume_request(
    request: MountRequest, destination: str, driver: str, wrong: Any
) -> ContainerMount:
    options = request.volume_options
    if request.source:
        try:
            check_volume_name(request.source)
        except InvalidParameter as error:
            raise wrong(str(error)) from None
    if options and options.driver_config and options.driver_config.name:
        driver = options.driver_config.name
    if options and options.subpath and not request.source:
        raise wrong("must not set Subpath when using anonymous volumes")
    return _volume(
        request.source,
        destination,
        driver,
        mode="z" if request.source else "",
        rw=not request.read_only,
        copy=not (options and options.no_copy),
        subpath=_subpath(options.subpath if options else "", wrong),
        labels=options.labels if options else None,
        driver_options=options.driver_config.options if options and options.driver_config else None,
    )


def _tmpfs_request(request: MountRequest, destination: str, wrong: Any) -> ContainerMount:
    words = ["noexec", "nosuid", "nodev"]
    options = request.tmpfs_options
    if request.read_only:
        words.append("ro")
    if options:
        if options.size_bytes < 0:
            raise wrong("the size of a tmpfs must not be negative")
        if options.mode:
            words.append(f"mode={options.mode & 0o7777:o}")
        if options.size_bytes:
            words.append(f"size={options.size_bytes}")
        for option in options.options or ():
            if option[0] not in ("exec", "noexec") or len(option) != 1:
                raise wrong(f"invalid option: {'='.join(option)}")
            words = [word for word in words if word not in ("exec", "noexec")] + option
    point = MountPoint(type="tmpfs", destination=destination, rw=not request.read_only)
    return ContainerMount(point=point, options=tuple(words))


def _destination(path: str, kind: str, spec: str) -> str:
    where = f"invalid volume specification: '{spec}': " if spec != path else ""
    if not path.startswith("/"):
        raise InvalidParameter(
            f'{where}invalid mount config for type "{kind}": invalid mount path: '
            f"'{path}' mount path must be absolute"
        )
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        raise InvalidParameter(
            f'{where}invalid mount config for type "{kind}": '
            "invalid specification: destination can't be '/'"
        )
    return clean


def _subpath(path: str, wrong: Any) -> str:
    if path and (path.startswith("/") or ".." in path.split("/")):
        raise wrong(f"Subpath {path!r} must be a relative path inside of it")
    return path


def _is_mode(mode: str) -> bool:
    try:
        _check_mode(mode, (*_PROPAGATIONS, *_COPY_MODES, *_CONSISTENCIES))
    except InvalidParameter:
        return False
    return mode != ""


def _check_mode(mode: str, extra: tuple[str, ...]) -> None:
    if not mode:
        return
    groups: list[int] = []
    kinds = (("ro", "rw"), _LABEL_MODES, _PROPAGATIONS, _COPY_MODES, _CONSISTENCIES)
    for word in mode.split(","):
        if word not in ("ro", "rw", *_LABEL_MODES, *extra):
            raise InvalidParameter(f"invalid mode: {mode}")
        groups.append(next(i for i, kind in enumerate(kinds) if word in kind))
    if len(set(groups)) != len(groups):
        raise InvalidParameter(f"invalid mode: {mode}")
