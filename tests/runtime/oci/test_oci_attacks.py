"""CVE-2019-5736 on sampan-oci: a program in a container looks for the interpreter that made it."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocicontainer import SCRIPT, Container

from sampan.linux import memfd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# How it is where the interpreter cannot let go of its executable and is started again.
STARTED_AGAIN = (
    f"import sys; sys.path.append({str(SCRIPT.parents[1])!r})\n"
    "from sampan.linux import executable\n"
    "executable.leave = lambda: False\n"
    "from sampan.runtime.oci.seal import entry\n"
    "entry()"
)
INTERPRETER = os.path.realpath(sys.executable)


@pytest.fixture(params=["at once", "started again"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Container]:
    found = Container(tmp_path)
    if request.param != "at once":
        found.command = [sys.executable, "-I", "-c", STARTED_AGAIN]
    yield found
    found("delete", "--force", found.name)


def test_the_first_process_does_not_run_from_a_file_of_the_host(container: Container) -> None:
    container.prepare("true")
    with (container.directory / "out").open("w") as out:
        made = container("create", "-b", str(container.directory), container.name, stdout=out)
    assert made.returncode == 0, (container.directory / "out").read_text()
    pid = json.loads(container("state", container.name).stdout)["pid"]
    place = f"/proc/{pid}/exe"
    assert os.readlink(place).startswith("/memfd:")
    assert INTERPRETER not in Path(f"/proc/{pid}/maps").read_text()
    image = os.open(place, os.O_RDONLY)
    try:
        assert fcntl.fcntl(image, 1034) & memfd.SEALS == memfd.SEALS  # F_GET_SEALS
    finally:
        os.close(image)
    with pytest.raises(OSError):
        os.open(place, os.O_WRONLY)


@pytest.mark.parametrize("way", ["program", "interpreter line", "link"])
def test_a_container_that_runs_its_runtime(container: Container, way: str) -> None:
    before = os.stat(INTERPRETER)
    attack = container.directory / "rootfs/attack"
    if way == "interpreter line":
        attack.write_text("#!/proc/self/exe -c import os; open('/proc/self/exe', 'r+b')\n")
        attack.chmod(0o755)
    elif way == "link":
        attack.symlink_to("/proc/self/exe")
    program = "/proc/self/exe" if way == "program" else "/attack"
    code = "print('works' + 'here'); open('/proc/self/exe', 'r+b'); print('open' + 'ed')"
    container.prepare("", lambda config: config["process"].update(args=[program, "-c", code]))
    done = container("run", "-b", str(container.directory), container.name)
    assert done.returncode != 0
    assert "opened" not in done.stdout
    after = os.stat(INTERPRETER)
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_who_watches_execs_sees_no_file_of_the_host(container: Container) -> None:
    """With the capability to look into all processes of the container."""

    def change(config: dict[str, object]) -> None:
        process = config["process"]
        assert isinstance(process, dict)
        for kind in process["capabilities"].values():
            kind.append("CAP_SYS_PTRACE")

    watch = "while :; do readlink /proc/[1-9]*/exe; done > /seen 2>/dev/null"
    container.start(watch, change)
    seen = container.directory / "rootfs/seen"
    for _ in range(5):
        assert container("exec", container.name, "true").returncode == 0
    deadline = time.monotonic() + 10
    while "/bin/busybox" not in seen.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "/bin/busybox" in seen.read_text()
    assert INTERPRETER not in seen.read_text()
