"""sampan-oci's checkpoint and restore by Debian's CRIU on the kernel that it was made for, with
control groups version 2 and a kernel that tracks changed memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from guest import Answer, Guest
from harness import until

BUNDLE, ROOT = "/root/bundle", "/run/oci"
COUNT = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done"
START = ("python3", "-S", "-c", "from sampan.runtime.oci.seal import entry; entry()")


class Oci:
    """The command line in the guest, and a container that counts."""

    def __init__(self, machine: Guest) -> None:
        self.machine = machine
        script = f"mkdir -p {BUNDLE}/rootfs/bin {BUNDLE}/rootfs/proc {BUNDLE}/rootfs/dev"
        script += f" && cp /bin/busybox {BUNDLE}/rootfs/bin/"
        script += f" && for a in sh sleep cat; do ln -sf busybox {BUNDLE}/rootfs/bin/$a; done"
        assert machine.run("sh", "-c", script).code == 0
        machine.run("rm", "-f", f"{BUNDLE}/config.json")
        assert self("spec", "-b", BUNDLE).code == 0
        config = json.loads(machine.read(f"{BUNDLE}/config.json")[f"{BUNDLE}/config.json"])
        config["process"] |= {"args": ["sh", "-c", COUNT], "terminal": False}
        config["root"]["readonly"] = False
        machine.write(f"{BUNDLE}/config.json", json.dumps(config).encode())

    def __call__(self, *words: str) -> Answer:
        """A command whose streams are the null device, as a detached container's have to be."""
        quoted = " ".join(f"'{word}'" for word in (*START, "--root", ROOT, *words))
        if words[0] in ("run", "restore"):
            quoted += " < /dev/null > /tmp/said 2>&1 || { cat /tmp/said; exit 1; }"
        return self.machine.run("sh", "-c", quoted)

    def do(self, *words: str) -> str:
        answer = self(*words)
        assert answer.code == 0, answer
        return answer.out

    def count(self) -> int:
        place = f"{BUNDLE}/rootfs/count"
        return int(self.machine.read(place).get(place, "").strip() or 0)


@pytest.fixture
def oci(guest: Guest) -> Iterator[Oci]:
    found = Oci(guest)
    yield found
    for name in found("list", "-q").out.split():
        found("delete", "--force", name)
    guest.run("rm", "-rf", BUNDLE, "/root/images", ROOT)


def test_checkpoint_and_restore(oci: Oci) -> None:
    assert '"io.sampan.checkpoint.enabled": "true"' in oci.do("features")
    oci.do("run", "-d", "-b", BUNDLE, "one")
    until(lambda: oci.count() > 1)
    # What has changed since a first dump, of a container that goes on.
    oci.do("checkpoint", "--pre-dump", "--image-path", "/root/images/first", "one")
    reached = oci.count()
    until(lambda: oci.count() > reached)
    last = ("--image-path", "/root/images/last", "--parent-path", "../first", "--auto-dedup")
    oci.machine.run("mkdir", "-p", "/root/images/last")
    oci.do("checkpoint", *last, "one")
    assert oci.do("list", "-q") == ""
    stopped = oci.count()
    assert stopped > reached
    oci.do("restore", "-d", "-b", BUNDLE, "--image-path", "/root/images/last", "two")
    until(lambda: oci.count() > stopped)
    state = json.loads(oci.do("state", "two"))
    assert state["status"] == "running"
    groups = oci.machine.read(f"/proc/{state['pid']}/cgroup").values()
    assert all("0::/sampan-oci/two" in text.splitlines() for text in groups) and groups
    oci.do("pause", "two")
    oci.do("resume", "two")
    again = ("--leave-running", "--image-path", "/root/images/again")
    oci.do("checkpoint", *again, "two")
    reached = oci.count()
    until(lambda: oci.count() > reached)


def test_connections_come_back(oci: Oci) -> None:
    place, images = f"{BUNDLE}/config.json", ("--image-path", "/root/images")
    config = json.loads(oci.machine.read(place)[place])
    script = (
        "busybox ip link set lo up; sleep 1000 | busybox nc -l -p 5000 > /got & "
        "until busybox grep -q :1388 /proc/net/tcp*; do sleep 0.1; done; "
        f"{COUNT.replace('/count', '/count; echo $i')} | busybox nc 127.0.0.1 5000"
    )
    config["process"]["args"] = ["sh", "-c", script]
    for names in config["process"]["capabilities"].values():
        names.append("CAP_NET_ADMIN")
    oci.machine.write(place, json.dumps(config).encode())

    def got() -> list[int]:
        lines = oci.machine.read(f"{BUNDLE}/rootfs/got").get(f"{BUNDLE}/rootfs/got", "")
        return [int(line) for line in lines.split("\n")[:-1]]

    oci.do("run", "-d", "-b", BUNDLE, "one")
    until(lambda: len(got()) > 3)
    refused = oci("checkpoint", *images, "one")
    assert refused.code == 1 and "criu dump failed" in refused.err, refused
    oci.do("checkpoint", *images, "--tcp-established", "one")
    stopped = len(got())
    oci.do("restore", "-d", "-b", BUNDLE, *images, "--tcp-established", "one")
    until(lambda: len(got()) > stopped + 5)
    said = got()
    assert said == list(range(1, len(said) + 1))
