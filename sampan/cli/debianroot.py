"""The file system of a ``debian`` image, made by mmdebstrap from the host's sources and keys."""

from __future__ import annotations

import os

from sampan.cli import aptsources
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.progress import Screen

PROGRAM = "mmdebstrap"
MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
CHUNK = 256 << 10
_PERCENT = 100

# What every container image of Debian has: services do not start when installed, packages'
# archives do not stay, and only the index files that are used are fetched.
_HOOK = r"""set -eu
printf '#!/bin/sh\nexit 101\n' > "$1/usr/sbin/policy-rc.d"
chmod 0755 "$1/usr/sbin/policy-rc.d"
printf 'force-unsafe-io\n' > "$1/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
printf 'Acquire::Languages "none";\n' > "$1/etc/apt/apt.conf.d/docker-no-languages"
printf 'Acquire::GzipIndexes "true";\n' > "$1/etc/apt/apt.conf.d/docker-gzip-indexes"
cat > "$1/etc/apt/apt.conf.d/docker-clean" <<'END'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END
rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/var/cache/apt/"*.bin
: > "$1/etc/machine-id"
"""


def suite_of(given: str) -> str:
    """The suite asked for; the host's own, if none was."""
    if given and given != "latest":
        if not all(letter.isalnum() or letter in "-." for letter in given):
            raise Failure(f"invalid suite {given!r}", 125)
        return given.removesuffix("-slim")
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                if line.startswith("VERSION_CODENAME="):
                    return line.partition("=")[2].strip().strip('"')
    except OSError:
        pass
    raise Failure("which suite of Debian? Say, for example, debian:bookworm", 125)


def tar(suite: str, *, variant: str, include: list[str], screen: Screen | None) -> Iterator[bytes]:
    """The archive; Failure if it cannot be made, with mmdebstrap's reason."""
    import subprocess
    import tempfile

    sources = aptsources.of_suite(aptsources.read(), suite)
    if not sources:
        raise Failure(
            "no Debian repository in /etc/apt/sources.list or /etc/apt/sources.list.d: "
            f"add one for {suite}, so that its packages and keys can be found"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".sources") as listing:
        listing.write("\n".join(source.stanza() for source in sources))
        listing.flush()
        command = [PROGRAM, f"--variant={variant}", "--format=tar", f"--customize-hook={_HOOK}"]
        command += ['--aptopt=Acquire::Languages "none"']
        command += [f"--include={','.join(include)}"] if include else []
        # With /usr merged from the start, no package is needed that merges it (and brings Perl).
        command += [f"--hook-dir={MERGED_USR}"] if os.path.isdir(MERGED_USR) else []
        command += [suite, "-", listing.name]
        # On a terminal of its own mmdebstrap says how far it is.
        ours, theirs = os.openpty()
        environment = {**os.environ, "ANSI_COLORS_DISABLED": "1", "NO_COLOR": "1"}
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=theirs,
                env=environment,
            )
        except FileNotFoundError:
            os.close(ours)
            raise Failure(
                "a debian image is made by the program mmdebstrap: install Debian's package "
                "mmdebstrap"
            ) from None
        finally:
            os.close(theirs)
        try:
            yield from _followed(process, ours, screen)
        finally:
            os.close(ours)
            if process.poll() is None:
                process.terminate()
                process.wait()


def _followed(process: Any, messages: int, screen: Screen | None) -> Iterator[bytes]:
    import select

    said = _Narration(screen)
    archive = process.stdout.fileno()
    poller = select.poll()
    poller.register(archive, select.POLLIN)
    poller.register(messages, select.POLLIN)
    open_ends = {archive, messages}
    while open_ends:
        for fd, _ in poller.poll():
            try:
                data = os.read(fd, CHUNK)
            except OSError:  # the other end of the terminal is closed
                data = b""
            if not data:
                poller.unregister(fd)
                open_ends.discard(fd)
            elif fd == archive:
                yield data
            else:
                said.feed(data)
        if archive not in open_ends and process.poll() is not None:
            break
    if process.wait():
        raise Failure(f"mmdebstrap could not make the file system: {said.reason()}")


_STEPS = {
    "running --setup-hook": "Fetching package lists",
    "running apt-get update": "Fetching package lists",
    "downloading packages": "Downloading packages",
    "extracting archives": "Extracting packages",
    "installing essential": "Installing essential packages",
    "installing remaining": "Installing the other packages",
    "cleaning": "Cleaning up",
    "creating tarball": "Packing",
}


class _Narration:
    """What mmdebstrap says, as rows of progress; its complaints are kept."""

    def __init__(self, screen: Screen | None) -> None:
        self._screen = screen
        self._text = ""
        self._status = ""
        self._complaints: list[str] = []

    def feed(self, data: bytes) -> None:
        self._text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        while True:
            ends = [at for at in (self._text.find("\n"), self._text.find("\r")) if at >= 0]
            if not ends:
                break
            line, self._text = self._text[: min(ends)], self._text[min(ends) + 1 :]
            self._line(line.strip())

    def _line(self, line: str) -> None:
        if line.startswith(("E: ", "W: ", "Err:")) or " error" in line.lower():
            self._complaints.append(line)
        if line.startswith("I: "):
            for beginning, status in _STEPS.items():
                if line[3:].startswith(beginning):
                    self._status = status
                    self._show(0)
        elif line.endswith("%"):
            try:
                self._show(float(line.rpartition(" ")[2].rstrip("%").rpartition("[")[2]))
            except ValueError:
                return
        elif line.endswith("done") and self._screen is not None and self._screen.live:
            self._show(_PERCENT)

    def _show(self, percent: float) -> None:
        if self._screen is not None and self._status:
            self._screen.percent(self._status, percent)

    def reason(self) -> str:
        """The last complaints, in one line."""
        wanted = [line for line in self._complaints if not line.startswith("W: ")]
        return "; ".join((wanted or self._complaints)[-3:]) or "it gave no reason"
