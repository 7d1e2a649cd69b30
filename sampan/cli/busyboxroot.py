"""The file system of the ``busybox`` image: the static program, its applets, and three files."""

from __future__ import annotations

import os

from sampan.cli.failure import Failure
from sampan.client.tarstream import CHUNK, END, header, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "/bin/busybox"
MISSING = "the busybox image is made of a statically linked /bin/busybox: install Debian's package busybox-static"
_INTERPRETER = 3
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:::::::\nnobody:*:::::::\n",
}
_DIRECTORIES = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/tmp": 0o1777,
}


def tar() -> Iterator[bytes]:
    """The archive; Failure if this machine has no static busybox."""
    applets = _applets()
    for name, mode in _DIRECTORIES.items():
        yield header(f"{name}/".encode(), mode, kind=b"5")
    for name, text in _FILES.items():
        mode = 0o640 if name.endswith("shadow") else 0o644
        data = text.encode()
        yield header(name.encode(), mode, size=len(data)) + data + padding(len(data))
    size = os.stat(PROGRAM).st_size
    yield header(b"bin/busybox", 0o755, size=size)
    with open(PROGRAM, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
    yield padding(size)
    for applet in applets:
        if applet != "busybox":
            yield header(f"bin/{applet}".encode(), 0o755, kind=b"1", link=b"bin/busybox")
    # Scripts name it by this path.
    yield header(b"usr/bin/env", 0o755, kind=b"1", link=b"bin/busybox")
    yield END


def _applets() -> list[str]:
    import subprocess

    try:
        with open(PROGRAM, "rb") as file:
            head = file.read(4096)
    except OSError:
        raise Failure(MISSING) from None
    if is_dynamic(head):
        raise Failure(f"{PROGRAM} is dynamically linked: {MISSING}")
    done = subprocess.run([PROGRAM, "--list"], capture_output=True, text=True, check=False)
    applets = sorted(done.stdout.split())
    if done.returncode or not applets:
        raise Failure(f"{PROGRAM} --list names no applets: {MISSING}")
    return applets


def is_dynamic(head: bytes) -> bool:
    """Whether an ELF program (its first bytes are given) asks for a dynamic linker."""
    if head[:4] != b"\x7fELF":
        return True
    wide, order = head[4] == 2, "little" if head[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]

    table = number(32, 8) if wide else number(28, 4)
    entry, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    return any(number(table + index * entry, 4) == _INTERPRETER for index in range(count))
