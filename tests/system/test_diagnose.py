"""``system diagnose`` against a real daemon: everything a report needs, nothing that is secret."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from pathlib import Path

from harness import Daemon
from test_sampan_cli import sampan

ENVIRONMENT = "environment-value-5417"
LABEL = "label-value-9023"
ARGUMENT = "argument-value-7716"


def test_archive(daemon: Daemon, tmp_path: Path) -> None:
    container = daemon.client.containers.run(
        "busybox",
        ["sh", "-c", "sleep 1000", "sh", f"--password={ARGUMENT}"],
        environment={"PLAIN": ENVIRONMENT, "DB_PASSWORD": f"{ENVIRONMENT}-2"},
        labels={"com.example.api-key": LABEL, "com.example.team": "blue"},
        detach=True,
    )
    path = tmp_path / "report.tar.gz"
    done = sampan(daemon, "system", "diagnose", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            files[member.name.partition("/")[2]] = file.read().decode()
    whole = "\n".join(files.values())
    for secret in (ENVIRONMENT, LABEL, ARGUMENT):
        assert secret not in whole
    inspected = json.loads(files[f"inspect/{container.id[:12]}.json"])
    assert inspected["Config"]["Labels"]["com.example.team"] == "blue"
    assert "DB_PASSWORD=<removed>" in inspected["Config"]["Env"]
    assert json.loads(files["info.json"])["Containers"] >= 1
    assert json.loads(files["version.json"])["Version"]
    assert json.loads(files["disk-usage.json"])["Images"]
    assert json.loads(files["check.json"])["Problems"] is not None
    assert json.loads(files["daemon.json"])["state_dir"] == str(daemon.state)
    assert json.loads(files[f"keepers/{container.id[:12]}.json"])["status"] == "running"
    assert "serves" in files["logs/daemon-0.txt"]
    assert os.uname().release in files["kernel/proc-version.txt"]
    assert "network/addresses.txt" in files or "network/addresses" in files["missing.txt"]
    # To standard output as well.
    data = sampan(daemon, "system", "diagnose", "--output", "-").stdout
    assert data.startswith(b"\x1f\x8b")
