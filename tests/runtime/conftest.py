"""A busybox root file system and a spawner for the runtime's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime.spawner import Spawner
from sampan.runtime.spec import default_spec
from sampan.runtime.types import KeeperRequest, LogConfig, Mount

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbob:x:1001:\nstaff:x:50:bob\naudio:x:29:\n"


@pytest.fixture(scope="session")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with busybox and a few files."""
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/bob", "usr/bin"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    os.chown(root / "home/bob", 1000, 1001)
    shutil.copy("/usr/bin/busybox", root / "bin/busybox")
    applets = subprocess.run(
        ["/usr/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    (root / "bin/script-without-interpreter").write_text("#!/nowhere\n")
    (root / "bin/script-without-interpreter").chmod(0o755)
    (root / "etc/not-executable").write_text("x")
    (root / "bin/garbage").write_bytes(b"\x7fNOTELF" * 10)
    (root / "bin/garbage").chmod(0o755)
    return root


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    running = await Spawner.start()
    yield running
    await running.close()


@pytest.fixture
def request_for(lower: Path, tmp_path: Path) -> Iterator[Callable[..., KeeperRequest]]:
    """Makes requests for containers with an overlay over the busybox tree."""
    count = 0

    def make(*args: str, log: LogConfig | None = None, **options: Any) -> KeeperRequest:
        nonlocal count
        count += 1
        name = f"t{os.getpid()}-{tmp_path.name[-20:]}-{count}"
        place = tmp_path / str(count)
        for part in ("upper", "work", "run"):
            (place / part).mkdir(parents=True)
        request_options = {
            key: options.pop(key) for key in list(options) if key in KeeperRequest.__struct_fields__
        }
        options.setdefault("network", False)
        spec = default_spec(args=args, cgroups_path=f"/sampan-test/{name}", **options)
        overlay = Mount(
            "overlay",
            "overlay",
            [f"lowerdir={lower}", f"upperdir={place / 'upper'}", f"workdir={place / 'work'}"],
        )
        return KeeperRequest(
            id=name,
            run_dir=str(place / "run"),
            spec=spec,
            rootfs=[overlay],
            log=log or LogConfig(driver="none"),
            **request_options,
        )

    yield make
