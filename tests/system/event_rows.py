"""Steps whose events ``test_event_answers`` compares with those that Docker's engine publishes."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from answers import Answer, ask
from api_rows import Ask, delete, get, made, post, tar
from harness import until

Act = Callable[["Scene"], None]


class Scene:
    """One engine's socket, and what steps have kept of its answers."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.places: dict[str, str] = {}

    def send(self, each: Ask) -> Answer:
        target = each.target
        for name, value in self.places.items():
            target = target.replace(f"{{{name}}}", value)
        answer = ask(self.path, each.method, f"/v1.45{target}", each.data(), each.headers())
        if each.keep:
            assert answer.status == 201, answer.body
            self.places[each.keep] = str(json.loads(answer.body)["Id"])
        return answer

    def converse(self, target: str, body: bytes, *typed: tuple[bytes, bytes]) -> None:
        """Take over a connection: type, wait for what is then read; at last for the end."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.path)
            sock.sendall(
                f"POST /v1.45{target} HTTP/1.1\r\nHost: docker\r\nUpgrade: tcp\r\n"
                "Connection: Upgrade\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            for sent, awaited in typed:
                sock.sendall(sent)
                data = b""
                while awaited not in data:
                    piece = sock.recv(1 << 16)
                    assert piece, data
                    data += piece
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1 << 16):
                    pass

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.send(get(f"/containers/{name}/json")).body)["State"]
        return found

    def until_exec_ended(self, name: str) -> None:
        target = f"/exec/{self.places[name]}/json"
        until(lambda: not json.loads(self.send(get(target)).body)["Running"])


@dataclass(frozen=True)
class Step:
    """Requests and other doings, with a name for their golden events."""

    title: str
    acts: list[Ask | Act] = field(default_factory=list)


def _attach_and_detach(scene: Scene) -> None:
    target = "/containers/typed/attach?stream=1&stdin=1&stdout=1"
    scene.converse(target, b"", (b"", b"UPGRADED"), (b"x\n", b"x\r\n"), (b"\x10\x11", b""))


def _exec_and_detach(scene: Scene) -> None:
    target = f"/exec/{scene.places['shell']}/start"
    scene.converse(target, b'{"Tty": true}', (b"", b"ready"), (b"\x10\x11", b""))


def _exec_attached(scene: Scene) -> None:
    scene.converse(f"/exec/{scene.places['said']}/start", b"{}")


def _healthy(scene: Scene) -> None:
    until(lambda: scene.state("probed").get("Health", {}).get("Status") == "healthy")


def _unhealthy(scene: Scene) -> None:
    until(lambda: scene.state("ill").get("Health", {}).get("Status") == "unhealthy")


def _ended(name: str) -> Act:
    return lambda scene: until(lambda: scene.state(name)["Status"] == "exited") and None


def _pruned(noun: str, **filters: list[str]) -> Ask:
    return post(f"/{noun}/prune?filters={quote(json.dumps(filters))}")


_PROBE = {"Interval": 10**9, "Timeout": 10**9, "Retries": 1}
_NONE = {"NetworkMode": "none"}

STEPS = [
    Step("create", [
        made("one", Labels={"l": "v"}, Volumes={"/anonymous": {}}, ExposedPorts={"80/tcp": {}},
             HostConfig={"Binds": ["named:/named", "/srv:/srv:ro"]}),
    ]),
    Step("start", [post("/containers/one/start")]),
    Step("exec detached", [
        post("/containers/one/exec", {"Cmd": ["sh", "-c", "exit 3"]}, keep="exec"),
        post("/exec/{exec}/start", {"Detach": True}), lambda s: s.until_exec_ended("exec"),
    ]),
    Step("exec attached", [
        post("/containers/one/exec", {"Cmd": ["echo", "a b"], "AttachStdout": True}, keep="said"),
        _exec_attached,
    ]),
    Step("exec of no command", [
        post("/containers/one/exec", {"Cmd": ["/none"], "AttachStdout": True}, keep="none"),
        post("/exec/{none}/start", {"Detach": True}),
    ]),
    Step("exec detached by keys", [
        post("/containers/one/exec", {"Cmd": ["sh", "-c", "echo ready; sleep 1000"],
             "Tty": True, "AttachStdin": True, "AttachStdout": True}, keep="shell"),
        _exec_and_detach,
    ]),
    Step("exec resized", [post("/exec/{shell}/resize?h=10&w=20")]),
    Step("top", [get("/containers/one/top"), get("/containers/one/top?ps_args=aux")]),
    Step("pause", [post("/containers/one/pause")]),
    Step("unpause", [post("/containers/one/unpause")]),
    Step("rename", [post("/containers/one/rename?name=two")]),
    Step("update", [post("/containers/two/update", {"CpuShares": 512})]),
    Step("archive", [
        Ask("HEAD", "/containers/two/archive?path=/etc/passwd"),
        get("/containers/two/archive?path=etc/passwd"),
        Ask("PUT", "/containers/two/archive?path=/tmp/../tmp", tar({"a": b"a"})),
        get("/containers/two/archive?path=/none"),
    ]),
    Step("export", [get("/containers/two/export")]),
    Step("diff, logs and stats", [
        get("/containers/two/changes"), get("/containers/two/logs?stdout=1"),
        get("/containers/two/stats?stream=0&one-shot=1"),
    ]),
    Step("commit", [post("/commit?container=two&repo=made&tag=c&comment=why&pause=0")]),
    Step("kill", [
        post("/containers/two/exec", {"Cmd": ["sleep", "1000"]}, keep="long"),
        post("/exec/{long}/start", {"Detach": True}),
        post("/containers/two/kill?signal=HUP"), post("/containers/two/kill"), _ended("two"),
    ]),
    Step("started again", [post("/containers/two/start")]),
    Step("restart", [post("/containers/two/restart?t=0")]),
    Step("stop", [post("/containers/two/stop?t=0")]),
    Step("remove", [delete("/containers/two?v=1")]),
    Step("attach before start", [
        made("typed", Cmd=["cat"], Tty=True, OpenStdin=True, AttachStdin=True, HostConfig=_NONE),
        post("/containers/typed/start"),
    ]),
    Step("resize", [post("/containers/typed/resize?h=10&w=20")]),
    Step("attach and detach", [_attach_and_detach]),
    Step("force remove", [delete("/containers/typed?force=1")]),
    Step("automatic removal", [
        made("brief", Cmd=["true"], Volumes={"/v": {}}, HostConfig={"AutoRemove": True}),
        post("/containers/brief/start"),
        lambda s: until(lambda: s.send(get("/containers/brief/json")).status == 404) and None,
    ]),
    Step("start that fails", [
        made("bad", Cmd=["/none"]), post("/containers/bad/start"), delete("/containers/bad"),
    ]),
    Step("restart policy", [
        made("again", Cmd=["false"], HostConfig={
            **_NONE, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}),
        post("/containers/again/start"), _ended("again"), delete("/containers/again"),
    ]),
    Step("healthy", [
        made("probed", HostConfig=_NONE, Healthcheck={"Test": ["CMD", "true"], **_PROBE}),
        post("/containers/probed/start"), _healthy,
    ]),
    Step("no more healthy", [delete("/containers/probed?force=1")]),
    Step("unhealthy", [
        made("ill", HostConfig=_NONE, Healthcheck={"Test": ["CMD-SHELL", "exit 2"], **_PROBE}),
        post("/containers/ill/start"), _unhealthy,
    ]),
    Step("no more ill", [delete("/containers/ill?force=1")]),
    Step("out of memory", [
        made("big", Cmd=["tail", "/dev/zero"], HostConfig={**_NONE, "Memory": 32 << 20,
                                                          "MemorySwap": 32 << 20}),
        post("/containers/big/start"), _ended("big"), delete("/containers/big"),
    ]),
    Step("network", [
        post("/networks/create", {"Name": "net", "Labels": {"n": "m"}}),
        made("wired", HostConfig=_NONE), made("joined"), post("/containers/joined/start"),
    ]),
    Step("connect", [post("/networks/net/connect", {"Container": "joined"})]),
    Step("disconnect", [post("/networks/net/disconnect", {"Container": "joined"})]),
    Step("connect before start", [
        made("later"), post("/networks/net/connect", {"Container": "later"}),
        post("/networks/net/disconnect", {"Container": "later"}),
    ]),
    Step("network removal", [
        delete("/containers/joined?force=1"), delete("/networks/net"),
    ]),
    Step("volumes", [
        post("/volumes/create", {"Name": "vol", "Labels": {"n": "m"}}),
        post("/volumes/create", {"Name": "vol"}),
        made("user", HostConfig={**_NONE, "Binds": ["vol:/v:ro"]}), post("/containers/user/start"),
        post("/containers/user/kill"), _ended("user"), delete("/containers/user"),
        delete("/volumes/vol"),
    ]),
    Step("images", [
        post("/images/busybox/tag?repo=made&tag=t"), delete("/images/made:t"),
        Ask("POST", "/images/create?fromSrc=-&repo=made&tag=i", tar({"a": b"a"})),
        get("/images/made:i/get"), post("/images/made:i/push"),
        delete("/images/made:i"), delete("/images/made:c"),
    ]),
    Step("build", [
        Ask("POST", "/build?t=made:b&rm=1", tar({"Dockerfile": b"FROM busybox\nLABEL a=b\n"})),
        delete("/images/made:b"),
    ]),
    Step("prunes", [
        post("/containers/prune"), post("/networks/prune"), post("/images/prune"),
        post("/volumes/create", {"Name": "dust"}), _pruned("volumes", all=["1"]),
        post("/build/prune"),
    ]),
]  # fmt: skip

FILTERED_STEPS: list[Ask] = [
    made("web", Labels={"l": "v", "m": "n"}, HostConfig=_NONE, Healthcheck={"Test": ["NONE"]}),
    post("/volumes/create", {"Name": "web"}),
    post("/containers/web/start"),
    post("/containers/web/exec", {"Cmd": ["true"]}, keep="exec"),
    post("/networks/create", {"Name": "web-net", "Labels": {"l": "v"}}),
    made("website", Image="busybox:latest"),
    post("/images/busybox/tag?repo=web&tag=1"),
    post("/containers/web/kill"),
]

FILTERS: list[dict[str, list[str]]] = [
    {"type": ["container"]}, {"type": ["network", "volume"]}, {"type": ["daemon"]},
    {"type": ["odd"]}, {"event": ["create"]}, {"event": ["create", "start"]},
    {"event": ["exec_create"]}, {"event": ["exec_create", "sta"]}, {"event": ["sta"]},
    {"event": ["exec_create: true "]}, {"event": ["exec_die"]}, {"event": ["health_status"]},
    {"container": ["web"]}, {"container": ["website"]}, {"container": ["we"]},
    {"container": ["none"]}, {"container": ["web"], "event": ["start"]},
    {"container": ["web", "website"]}, {"volume": ["web"]}, {"network": ["web-net"]},
    {"network": ["none"]}, {"network": ["bridge"]}, {"image": ["busybox"]},
    {"image": ["busybox:latest"]}, {"image": ["web"]}, {"image": ["web:1"]}, {"image": ["bus"]},
    {"label": ["l"]}, {"label": ["l=v"]}, {"label": ["l=x"]}, {"label": ["l=v", "m=n"]},
    {"label": ["name=web"]}, {"scope": ["local"]}, {"scope": ["swarm"]}, {"scope": ["odd"]},
    {"daemon": ["none"]}, {"plugin": ["web"]}, {"node": ["x"]}, {"service": ["x"]},
    {"secret": ["x"]}, {"config": ["x"]}, {"type": []}, {},
]  # fmt: skip

DIFFERS: list[tuple[str, str, str]] = [
    ("exec detached by keys", "exec_die", "Docker's engine takes the detaching for a failure of the"
     " command, which runs on"),
    ("exec detached by keys", "exec_detach", "as Docker's documentation has it"),
    ("kill", "exec_die", "the end of the command that Docker's engine has given up"),
    ("archive", "mount", "volumes are not mounted anew to copy from a container or to it"),
    ("restart", "kill", "one signal that kills is enough"),
    ("stop", "kill", "one signal that kills is enough"),
    ("restart policy", "connect", "a container keeps its networks between its own restarts"),
    ("healthy", "exec_", "probes are no execs that a client could ask about"),
    ("unhealthy", "exec_", "probes are no execs that a client could ask about"),
    ("no more healthy", "exec_", "probes are no execs that a client could ask about"),
    ("no more ill", "exec_", "probes are no execs that a client could ask about"),
    ("out of memory", "oom", "Docker's engine does not see it with mixed versions of cgroups"),
    ("disconnect", "disconnect", "Docker's engine publishes it twice"),
    ("build", "container", "no container is made for a step that runs nothing"),
]  # fmt: skip
"""Step, the part of the action that is left out of the comparison, and why it differs."""
