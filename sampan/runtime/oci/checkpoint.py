"""``checkpoint`` and ``restore``: write a running container to files, and bring it back, by CRIU."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from typing import Any

from sampan.linux import mount, namespaces, process
from sampan.linux.openat2 import make_directories, make_file
from sampan.runtime import cgroups
from sampan.runtime.oci import bundle, create, criu, lifecycle, records
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import Options
from sampan.runtime.sync import describe

_VERBOSE = "-v4"
_PLACE = "root"


def checkpoint(root: str, options: Options) -> int:
    """``checkpoint``: the container has ended when this returns, unless it was to go on."""
    record = records.read(root, lifecycle.only(options))
    config = record.config()
    pre_dump = options.flag("pre-dump")
    criu.check(config)
    program = criu.find(options.text("criu"))
    held = records.lock(record)
    try:
        status = record.status()
        if status != "running":
            raise OciError(f"cannot checkpoint a container that is {status}")
        images, work = criu.directories(options)
        log = f"{work}/dump.log"
        words = [program, "pre-dump" if pre_dump else "dump", "--tree", str(record.pid)]
        words += ["--images-dir", images, "--work-dir", work, "--log-file", log, _VERBOSE]
        words += ["--enable-external-masters", *_freezer(record.group_path)]
        words += criu.common(options, record.group_path)
        words += _dump_options(options, images)
        words += _dump_resources(record, config)
        words += _write_descriptors(record.pid, images)
        if code := criu.execute(words):
            raise criu.failure("dump", log, code)
    finally:
        os.close(held)
    if not pre_dump and not options.flag("leave-running"):
        lifecycle.forget(record)
    return 0


def _freezer(path: str) -> list[str]:
    layout = cgroups.layout()
    if layout.version == 2:
        return ["--freeze-cgroup", f"{layout.unified}{path}"]
    freezer = layout.points.get("freezer")
    return ["--freeze-cgroup", f"{freezer}{path}"] if freezer else []


def _dump_options(options: Options, images: str) -> list[str]:
    words = []
    if options.flag("pre-dump"):
        words.append("--track-mem")
    elif options.flag("leave-running"):
        words.append("--leave-running")
    parent = options.text("parent-path")
    if parent:
        if os.path.isabs(parent):
            raise OciError("--parent-path must be relative to --image-path")
        if not os.path.isdir(f"{images}/{parent}"):
            raise OciError(f"--parent-path {parent}: there is no such directory in {images}")
        words += ["--track-mem"] if not options.flag("pre-dump") else []
        words += ["--prev-images-dir", parent]
    return words


def _dump_resources(record: records.Record, config: dict[str, Any]) -> list[str]:
    words = []
    group = cgroups.group(record.cgroup)
    for place, _ in criu.mounts(config, record.rootfs, group):
        words += ["--external", f"mnt[{place}]:{place}"]
    if criu.external_network(config):
        number = os.stat(f"/proc/{record.pid}/ns/net").st_ino
        words += ["--external", f"net[{number}]:{criu.NETWORK}"]
    return words


def _write_descriptors(pid: int, images: str) -> list[str]:
    """Note what the standard streams are, as ``restore`` has to put ours in their place; options
    for those that are files of the host."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        own = {line.split()[0] for line in file}
    names, words = [], []
    for number in (0, 1, 2):
        name = os.readlink(f"/proc/{pid}/fd/{number}")
        place = _mount_of(pid, number)
        if name.startswith("/") and place not in own:
            inode = os.stat(f"/proc/{pid}/fd/{number}").st_ino
            name = f"file[{int(place):x}:{inode:x}]"
            words += ["--external", name]
        names.append(name)
    with open(f"{images}/{criu.DESCRIPTORS}", "w", encoding="utf-8") as file:
        json.dump(names, file)
    return words


def _mount_of(pid: int, number: int) -> bytes:
    with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
        return next(line.split()[1] for line in file if line.startswith(b"mnt_id:"))


def restore(root: str, options: Options) -> int:
    """``restore``: the container runs when this returns, or has ended if not ``--detach``."""
    from sampan.runtime.oci import waiting

    identity = lifecycle.only(options)
    program = criu.find(options.text("criu"))
    if options.text("console-socket"):
        raise OciError("--console-socket: a container with a terminal cannot be restored")
    loaded = bundle.load(options.text("bundle", "."))
    criu.check(loaded.config)
    images, work = criu.directories(options)
    if not os.path.exists(f"{images}/inventory.img"):
        raise OciError(f"there is no checkpoint in {images}")
    detached = options.flag("detach")
    if not detached and not options.flag("no-subreaper"):
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    directory = records.reserve(root, identity)
    try:
        record = _restore(program, identity, directory, loaded, options, (images, work))
    except BaseException as problem:
        _remove(directory)
        if isinstance(problem, (OSError, ValueError)):
            raise OciError(f"cannot restore the container: {describe(problem)}") from None
        raise
    if options.text("pid-file"):
        create.write_pid(options.text("pid-file"), record.pid)
    lifecycle.poststart(record)
    if detached:
        return 0
    code = waiting.wait(record.pid, os.pidfd_open(record.pid), None)
    lifecycle.forget(record)
    return code


def _restore(
    program: str,
    identity: str,
    directory: str,
    loaded: bundle.Bundle,
    options: Options,
    places: tuple[str, str],
) -> records.Record:
    config, (images, work) = loaded.config, places
    labels = criu.labels(options)
    linux = config.get("linux") or {}
    if options.flag("systemd-cgroup"):
        raise OciError("restore with --systemd-cgroup is not supported: CRIU makes the processes")
    group = create.group_of(config, identity, options)
    if group.pids():
        raise ValueError(f"the control group {group.path} is in use")
    resources = linux.get("resources") or {}
    rules = create.allowed_devices(resources.get("devices") or ())
    group.create({**resources, "devices": rules})
    log, pid_file = f"{work}/restore.log", f"{directory}/pid"
    words = [program, "restore", "--images-dir", images, "--work-dir", work, "--log-file", log]
    words += [_VERBOSE, "--restore-detached", "--restore-sibling", "--pidfile", pid_file]
    words += ["--enable-external-masters", "--root", f"{directory}/{_PLACE}"]
    words += criu.common(options, group.path)
    words += labels
    external = criu.mounts(config, loaded.rootfs, group)
    for place, source in external:
        words += ["--external", f"mnt[{place}]:{source}"]
    kept, inherited = _inherited(config, images)
    words += inherited
    try:
        _make_places(loaded.rootfs, config)
        os.mkdir(f"{directory}/{_PLACE}", 0o700)
        if code := _in_own_mounts(words, kept, loaded.rootfs, f"{directory}/{_PLACE}"):
            raise criu.failure("restore", log, code)
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read())
    except BaseException:
        try:
            group.delete()
        except OSError:
            pass  # the failure itself is what is to be told
        raise
    finally:
        for fd in kept:
            os.close(fd)
    os.unlink(pid_file)
    os.rmdir(f"{directory}/{_PLACE}")
    record = create.new_record(directory, identity, pid, loaded, group.path)
    try:
        records.write(record, loaded.raw)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    return record


def _inherited(config: dict[str, Any], images: str) -> tuple[list[int], list[str]]:
    """(descriptors, options) of streams, which become our own, and the network namespace."""
    try:
        with open(f"{images}/{criu.DESCRIPTORS}", encoding="utf-8") as file:
            names = json.load(file)
    except (OSError, ValueError):
        names = []
    kept, words, seen = [], [], set()
    for number, name in enumerate(names[:3]):
        if str(name).startswith(("pipe:", "file[")) and name not in seen:
            seen.add(name)
            kept.append(os.dup(number))
            words += ["--inherit-fd", f"fd[{kept[-1]}]:{name}"]
    if path := criu.external_network(config):
        kept.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        words += ["--inherit-fd", f"fd[{kept[-1]}]:{criu.NETWORK}"]
    return kept, words


def _make_places(rootfs: str, config: dict[str, Any]) -> None:
    """Make the places of mounts in a root file system that has not been run yet."""
    fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        above: list[str] = []
        for entry in config.get("mounts") or ():
            place = "/" + str(entry["destination"]).strip("/")
            if any(place.startswith(f"{other}/") for other in above):
                continue  # CRIU makes it in what it mounts there
            above.append(place)
            source = str(entry.get("source") or "")
            bound = entry.get("type") == "bind" or "bind" in (entry.get("options") or ())
            if bound and not stat.S_ISDIR(os.stat(source).st_mode):
                os.close(make_file(fd, place))
            else:
                os.close(make_directories(fd, place))
    finally:
        os.close(fd)


def _in_own_mounts(words: list[str], kept: list[int], rootfs: str, place: str) -> int:
    """Run CRIU where the root file system is a mount of its own, of which the host sees nothing.

    What CRIU restores becomes our child.
    """
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.mount("none", "/", "", mount.MS_REC | mount.MS_SLAVE)
        mount.mount(rootfs, place, "", mount.MS_BIND | mount.MS_REC)
        return criu.execute(words, kept)
    finally:
        namespaces.setns(own, namespaces.CLONE_NEWNS)
        os.close(own)


def _remove(directory: str) -> None:
    """The record, and what a restore that failed has left in it."""
    try:
        os.unlink(f"{directory}/pid")
    except FileNotFoundError:
        pass
    try:
        os.rmdir(f"{directory}/{_PLACE}")
    except OSError as failure:
        if failure.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    records.remove(directory)
