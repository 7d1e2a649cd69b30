"""CRIU's command line: what it is told of a container, and what it says when it fails.

CRIU is asked for what a container shares with its host: mounts of the host's files are *external*
and named by their place inside, pipes and network namespaces are inherited by descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from sampan.runtime import cgroups
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import Options

DESCRIPTORS = "descriptors.json"
NETWORK = "extRootNetNS"
_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_CGROUP_MODES = ("soft", "full", "strict", "ignore")
# Options of ours that are CRIU's by the same name.
_SAME = ("tcp-established", "file-locks", "auto-dedup")
_REFUSED = {
    "shell-job": "it is for a container with a terminal, which cannot be checkpointed",
    "ext-unix-sk": "a socket's other end outside cannot be connected again",
}
_JOINABLE = ("network", "user")


def find(given: str) -> str:
    """CRIU's program.  Raises OciError with what to do if there is none."""
    if given:
        if os.access(given, os.X_OK) and os.path.isfile(given):
            return os.path.abspath(given)
        raise OciError(f"--criu {given} is not a program")
    places = (os.environ.get("PATH") or "").split(":")
    for directory in (*places, *_DIRECTORIES):
        if directory and os.access(f"{directory}/criu", os.X_OK):
            return f"{directory}/criu"
    raise OciError("criu is not installed: checkpoint and restore need it (package criu)")


def works(given: str = "") -> bool:
    """Whether there is a CRIU that can do its work with the running kernel."""
    import subprocess

    try:
        null = subprocess.DEVNULL
        words = [find(given), "check"]
        return subprocess.run(words, stdin=null, stdout=null, stderr=null).returncode == 0
    except (OciError, OSError):
        return False


def check(config: dict[str, Any]) -> None:
    """Raises OciError for a container that cannot be brought back."""
    if config["process"].get("terminal"):
        raise OciError("a container with a terminal cannot be checkpointed: run it without")
    linux = config.get("linux") or {}
    for entry in linux.get("namespaces") or ():
        if entry.get("path") and entry.get("type") not in _JOINABLE:
            raise OciError(
                f"a container that joins another's {entry['type']} namespace cannot be checkpointed"
            )


def directories(options: Options) -> tuple[str, str]:
    """The absolute (image, work) directories, made if they are missing."""
    images = os.path.abspath(options.text("image-path", "checkpoint"))
    work = os.path.abspath(options.text("work-path") or images)
    for directory in (images, work):
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
        except OSError as failure:
            raise OciError(f"cannot make {directory}: {failure.strerror}") from None
    return images, work


def common(options: Options, group: str) -> list[str]:
    """What is said of both ways; ``group`` is the control group that holds the container's own."""
    for name, reason in _REFUSED.items():
        if options.flag(name):
            raise OciError(f"--{name} is not supported: {reason}")
    mode = options.text("manage-cgroups-mode", "soft")
    if mode not in _CGROUP_MODES:
        raise OciError(f"--manage-cgroups-mode {mode!r} is unknown: {', '.join(_CGROUP_MODES)}")
    words = [f"--manage-cgroups={mode}"]
    # Of each hierarchy where it is, so that it may have another name when it is brought back.
    # Version 2 is the one without a name.
    for controller in cgroups.layout().points or ("",):
        words += ["--cgroup-root", f"{controller}:{group}"]
    words += [f"--{name}" for name in _SAME if options.flag(name)]
    if options.text("empty-ns"):
        if options.text("empty-ns") != "network":
            raise OciError("--empty-ns is for network only")
        words += ["--empty-ns", "net"]
    return words


def labels(options: Options) -> list[str]:
    """The security labels that are wanted instead of the dumped ones.  Raises OciError where the
    host lacks their module."""
    from sampan.linux import lsm

    words = []
    profile, context = options.text("lsm-profile"), options.text("lsm-mount-context")
    kind = profile.partition(":")[0]
    if profile and kind not in ("apparmor", "selinux"):
        raise OciError(f"--lsm-profile {profile!r} starts with neither apparmor: nor selinux:")
    if (kind == "selinux" or context) and not lsm.has_selinux():
        option = "--lsm-profile" if kind == "selinux" else "--lsm-mount-context"
        raise OciError(f"{option}: SELinux is not enabled on this host")
    if kind == "apparmor" and not lsm.has_apparmor():
        raise OciError("--lsm-profile: AppArmor is not enabled on this host")
    if profile:
        words += ["--lsm-profile", profile]
    if context:
        words += ["--lsm-mount-context", context]
    return words


def mounts(config: dict[str, Any], rootfs: str, group: cgroups.Group) -> list[tuple[str, str]]:
    """(place inside, source on the host) of what is mounted from the host.

    ``rootfs`` is where the container's files can be seen, to tell which paths there are to mask.
    """
    found = []
    for entry in config.get("mounts") or ():
        place = "/" + str(entry["destination"]).strip("/")
        options = entry.get("options") or ()
        if entry.get("type") == "cgroup":
            for point, path in group.mount_points().items():
                found.append((f"{place}/{point.rpartition('/')[2]}", point + path))
        elif entry.get("type") == "bind" or "bind" in options or "rbind" in options:
            found.append((place, str(entry.get("source"))))
    for path in (config.get("linux") or {}).get("maskedPaths") or ():
        seen = path if path.startswith("/proc/") else f"{rootfs}{path}"
        if os.path.lexists(seen) and not os.path.isdir(seen):
            found.append((str(path), os.devnull))
    return found


def external_network(config: dict[str, Any]) -> str:
    """The path of the network namespace that the container has joined, or empty."""
    for entry in (config.get("linux") or {}).get("namespaces") or ():
        if entry.get("type") == "network" and entry.get("path"):
            return str(entry["path"])
    return ""


def failure(action: str, log: str, code: int) -> OciError:
    """What CRIU's log says."""
    said = ""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [line.partition("): ")[2].strip() for line in file if "Error (" in line]
        # The last one only says that it failed.
        said = next((line for line in lines if "rlimit" not in line), "")
        if "FAILED" in said and len(lines) > 1:
            said = lines[0]
    except OSError:
        pass
    advice = f"see {log}"
    if "kerndat" in said or "vdso" in said:
        advice = f"this version of criu does not know the running kernel, a newer one may; {advice}"
    return OciError(f"criu {action} failed{f': {said}' if said else f' ({code})'} ({advice})")


def execute(words: Sequence[str], kept: Sequence[int] = ()) -> int:
    """Run CRIU to its end in the namespaces of the caller; its exit code."""
    from sampan.linux import process

    child = os.fork()
    if not child:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            process.close_range(3, flags=process.CLOSE_RANGE_CLOEXEC)
            for fd in kept:
                os.set_inheritable(fd, True)
            process.reset_signals()
            os.execve(words[0], list(words), os.environ)
        except OSError:
            pass
        finally:
            os._exit(127)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
