"""What ``--help`` and ``help`` tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

GLOBAL = {
    "root": ("DIR", "where containers are recorded (default /run/sampan-oci)"),
    "log": ("FILE", "append errors to this file too"),
    "log-format": ("FORMAT", "text (default) or json, for --log"),
    "log-level": ("LEVEL", "taken for crun's sake: only errors are logged"),
    "debug": ("", "taken for runc's sake: only errors are logged"),
    "systemd-cgroup": ("", "let systemd make the control groups (version 2 only)"),
    "cgroup-manager": ("MANAGER", "cgroupfs (default) or systemd, the same as --systemd-cgroup"),
    "rootless": ("VALUE", "auto (default) or false: it is always run by root"),
    "criu": ("PROGRAM", "the CRIU to checkpoint and restore by (default: that in PATH)"),
    "help": ("", "tell the commands"),
    "version": ("", "tell the version"),
}
COMMANDS = {
    "create": ("CONTAINER", "make a container whose program waits for start"),
    "run": ("CONTAINER", "create and start a container, wait for its end and delete it"),
    "start": ("CONTAINER", "let the program of a created container run"),
    "state": ("CONTAINER", "tell the state of a container, as JSON"),
    "kill": ("CONTAINER [SIGNAL]", "send a signal (default TERM) to a container's first process"),
    "delete": ("CONTAINER", "delete a container that has ended, or was never started"),
    "exec": ("CONTAINER PROGRAM [ARGUMENT …]", "run a further program in a running container"),
    "pause": ("CONTAINER", "stop all processes of a container where they are"),
    "resume": ("CONTAINER", "let the processes of a paused container go on"),
    "list": ("", "list the containers"),
    "ps": ("CONTAINER [OPTION OF ps …]", "list the processes of a container"),
    "events": ("CONTAINER", "tell what happens to a container and what it uses, as JSON"),
    "update": ("CONTAINER", "change the limits of a container"),
    "checkpoint": ("CONTAINER", "write a container's processes to files by CRIU, and end them"),
    "restore": ("CONTAINER", "make a container of what checkpoint has written"),
    "features": ("", "tell what is supported, as JSON"),
    "spec": ("", "write a config.json to begin a bundle with"),
}
OPTIONS = {
    "additional-gids": ("GID", "a further group of the process; may be repeated"),
    "all": ("", "send it to all processes of the container"),
    "apparmor": ("PROFILE", "AppArmor's profile of the process"),
    "auto-dedup": ("", "have CRIU drop memory from older images that newer ones have"),
    "blkio-weight": ("WEIGHT", "share of block I/O, 10 to 1000"),
    "bundle": ("DIR", "the bundle's directory (default: the current one)"),
    "cap": ("CAPABILITY", "a further capability of the process; may be repeated"),
    "cgroup": ("PATH", "a control group below the container's to run the process in"),
    "config": ("FILE", "the configuration, from the bundle's directory (default config.json)"),
    "console-socket": ("SOCKET", "the socket that the terminal's master is sent to"),
    "cpu-period": ("MICROSECONDS", "the period that --cpu-quota is for"),
    "cpu-quota": ("MICROSECONDS", "processor time in each period, -1: no limit"),
    "cpu-rt-period": ("MICROSECONDS", "the period that --cpu-rt-runtime is for"),
    "cpu-rt-runtime": ("MICROSECONDS", "realtime processor time in each period"),
    "cpu-share": ("SHARES", "share of the processors, relative to others"),
    "cpuset-cpus": ("LIST", "the processors to run on, like 0-2,7"),
    "cpuset-mems": ("LIST", "the memory nodes to use"),
    "criu": ("PROGRAM", "the CRIU to do it by (default: that in PATH)"),
    "cwd": ("DIR", "the working directory in the container"),
    "detach": ("", "return when the program runs"),
    "empty-ns": ("KIND", "namespaces to come back empty: network"),
    "env": ("NAME=VALUE", "a variable of the process; may be repeated"),
    "ext-unix-sk": ("", "refused: nobody is left at the other end of such a socket"),
    "file": ("FILE", "the file to write (default: config.json in the bundle's directory)"),
    "file-locks": ("", "save and restore locks of files"),
    "force": ("", "kill it first if it runs; no error if there is none"),
    "format": ("FORMAT", "table (default) or json"),
    "help": ("", "tell these options"),
    "ignore-paused": ("", "also in a paused container: the process runs when it is resumed"),
    "image-path": ("DIR", "the directory of the images"),
    "interval": ("DURATION", "time between two reports of what is used, like 500ms (default 5s)"),
    "keep": ("", "do not delete the container when it ends"),
    "leave-running": ("", "let the container go on"),
    "lsm-mount-context": ("CONTEXT", "SELinux's context of the mounts"),
    "lsm-profile": ("TYPE:NAME", "the profile or label of the security module"),
    "manage-cgroups-mode": ("MODE", "soft (default), full, strict or ignore"),
    "memory": ("BYTES", "memory limit; 512m and 2g are taken too"),
    "memory-reservation": ("BYTES", "memory that is left to it when memory gets short"),
    "memory-swap": ("BYTES", "limit of memory and swap together, -1: no limit of swap"),
    "no-new-keyring": ("", "keep the caller's session keyring"),
    "no-new-privs": ("", "let the process gain no rights by executing programs"),
    "no-pivot": ("", "without pivot_root, for a host whose root is a ramdisk"),
    "no-subreaper": ("", "do not adopt processes that the container leaves behind"),
    "parent-path": ("DIR", "the images of an earlier --pre-dump, from the directory of these"),
    "pid-file": ("FILE", "the file to write the process's number to"),
    "pids-limit": ("COUNT", "the most processes, -1: no limit"),
    "pre-dump": ("", "save only memory, and let the container go on"),
    "preserve-fds": ("COUNT", "descriptors from 3 on that the program gets"),
    "process": ("FILE", "the process as in a configuration, instead of a command line"),
    "process-label": ("LABEL", "SELinux's label of the process"),
    "quiet": ("", "the names only"),
    "resources": ("FILE", "limits as in a configuration, - reads the standard input"),
    "rootless": ("", "for a container in which the caller alone is mapped"),
    "shell-job": ("", "refused: it is for containers with a terminal"),
    "stats": ("", "tell once what is used"),
    "tcp-established": ("", "save and restore connections"),
    "tty": ("", "give the process a terminal"),
    "user": ("UID[:GID]", "the user and group of the process"),
    "work-path": ("DIR", "the directory of CRIU's logs (default: that of the images)"),
}


def overview() -> str:
    """The commands and what comes before them."""
    rows = [(name, text) for name, (_, text) in COMMANDS.items()]
    rows.append(("help", "tell about a command"))
    return "\n".join(
        [
            "usage: sampan-oci [OPTION …] COMMAND [OPTION …] [ARGUMENT …]",
            "",
            "Make and run containers of OCI bundles.",
            "",
            "commands:",
            *_table(rows),
            "",
            "options:",
            *_options(list(GLOBAL), GLOBAL, {"h": "help", "v": "version"}),
            "",
            "'sampan-oci COMMAND --help' tells a command's options.",
        ]
    )


def command(name: str, options: Sequence[str], short: Mapping[str, str]) -> str:
    """A command and its options, ``short`` maps letters to them."""
    arguments, text = COMMANDS[name]
    usage = " ".join(["usage: sampan-oci", name, "[OPTION …]", *arguments.split()])
    shown = sorted([*options, "help"])
    lines = [usage, "", f"{text[:1].upper()}{text[1:]}.", "", "options:"]
    return "\n".join([*lines, *_options(shown, OPTIONS, {**short, "h": "help"})])


def _options(
    names: Sequence[str], texts: Mapping[str, tuple[str, str]], short: Mapping[str, str]
) -> list[str]:
    letters = {full: letter for letter, full in short.items()}
    rows = []
    for name in names:
        value, text = texts[name]
        letter = f"-{letters[name]}, " if name in letters else "    "
        rows.append((f"{letter}--{name} {value}".rstrip(), text))
    return _table(rows)


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(left) for left, _ in rows)
    return [f"  {left.ljust(width)}  {right}" for left, right in rows]
