"""Requests that ``test_api_answers`` sends to this engine, and ``scripts/golden`` to Docker's."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

VERSION = "1.45"
"""The newest version of the API that the golden files' engine speaks."""


@dataclass(frozen=True)
class Ask:
    """One request; ``{name}`` in its target is what an earlier answer with ``keep`` had as Id."""

    method: str
    target: str
    body: Any = None
    version: str = ""
    keep: str = ""
    header: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        version = f"v{self.version} " if self.version else ""
        body = ""
        if self.body is not None:
            body = f" <{len(self.body)} bytes>" if isinstance(self.body, bytes) else ""
            body = body or f" {self.body if isinstance(self.body, str) else json.dumps(self.body)}"
        return f"{version}{self.method} {self.target}{body}"

    def data(self) -> bytes:
        if self.body is None:
            return b""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    def headers(self) -> dict[str, str]:
        if self.body is None:
            return self.header
        kind = "application/x-tar" if isinstance(self.body, bytes) else "application/json"
        return {"Content-Type": kind, **self.header}


def get(target: str, version: str = "") -> Ask:
    return Ask("GET", target, None, version)


def post(target: str, body: Any = None, version: str = "", keep: str = "") -> Ask:
    return Ask("POST", target, body, version, keep)


def delete(target: str, version: str = "") -> Ask:
    return Ask("DELETE", target, None, version)


def filtered(target: str, filters: Any, version: str = "") -> Ask:
    text = filters if isinstance(filters, str) else json.dumps(filters)
    joint = "&" if "?" in target else "?"
    return get(f"{target}{joint}filters={quote(text)}", version)


def made(name: str, **config: Any) -> Ask:
    """A container of busybox that sleeps, unless told otherwise."""
    body = {"Image": "busybox", "Cmd": ["sleep", "100000"], "StopSignal": "SIGKILL", **config}
    return post(f"/containers/create?name={name}", body)


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


OLD = ("1.24", "1.30", "1.39", "1.40", "1.41", "1.42", "1.43", "1.44")

_RICH: dict[str, Any] = {
    "Image": "busybox", "Hostname": "host", "Domainname": "example.org", "User": "1000:1000",
    "AttachStdout": True, "Tty": True, "OpenStdin": True, "StdinOnce": True,
    "Env": ["A=b", "C"], "Cmd": ["-c", "true"], "Entrypoint": ["sh"],
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"a": "b"}, "WorkingDir": "/w",
    "Volumes": {"/data": {}}, "StopSignal": "SIGINT", "StopTimeout": 5, "Shell": ["sh", "-c"],
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**10, "Retries": 3},
    "OnBuild": [], "MacAddress": "02:42:ac:11:00:09",
    "HostConfig": {
        "Binds": ["/srv:/mnt:ro", "named:/named"], "Memory": 64 << 20, "CpuShares": 512,
        "NanoCpus": 5 * 10**8, "PidsLimit": 50, "PortBindings": {"80/tcp": [{"HostPort": ""}]},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "Dns": ["10.0.0.53"],
        "ExtraHosts": ["a:10.1.2.3"], "CapAdd": ["NET_ADMIN"], "CapDrop": ["CAP_MKNOD"],
        "GroupAdd": ["2000"], "SecurityOpt": ["no-new-privileges"], "Tmpfs": {"/t": "size=1m"},
        "Sysctls": {"net.ipv4.ip_forward": "1"}, "ShmSize": 32 << 20, "Init": True,
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}], "OomScoreAdj": 100,
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n",
                     "CgroupPermissions": "rwm"}],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Annotations": {"x": "y"}, "ReadonlyRootfs": True, "AutoRemove": False,
        "Mounts": [
            {"Type": "tmpfs", "Target": "/mt", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 511}},
            {"Type": "volume", "Source": "named2", "Target": "/mv", "ReadOnly": True,
             "VolumeOptions": {"NoCopy": True, "Labels": {"l": "m"}}},
            {"Type": "bind", "Source": "/srv", "Target": "/mb",
             "BindOptions": {"Propagation": "rprivate"}},
        ],
    },
}  # fmt: skip

_REFUSED: list[dict[str, Any]] = [
    {"HostConfig": host} for host in (
        {"Memory": 1024}, {"Memory": 64 << 20, "MemorySwap": 32 << 20}, {"MemorySwap": 10 << 20},
        {"MemoryReservation": 64 << 20, "Memory": 32 << 20}, {"MemorySwappiness": 200},
        {"NanoCpus": 10**9, "CpuPeriod": 1000}, {"NanoCpus": 10**9, "CpuQuota": 1000},
        {"NanoCpus": 10**13}, {"CpuPeriod": 10}, {"CpuQuota": 10}, {"CpusetCpus": "x"},
        {"CpusetCpus": "4000"}, {"CpusetMems": "77"}, {"BlkioWeight": 5}, {"OomScoreAdj": 5000},
        {"ShmSize": -1}, {"PidMode": "odd"}, {"IpcMode": "odd"}, {"UTSMode": "odd"},
        {"UsernsMode": "odd"}, {"CgroupnsMode": "odd"}, {"NetworkMode": "container:nobody"},
        {"IpcMode": "container:nobody"}, {"PidMode": "container:nobody"},
        {"RestartPolicy": {"Name": "odd"}}, {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
        {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 3}},
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -3}},
        {"Binds": ["x"]}, {"Binds": ["/a:b"]}, {"Binds": ["/a:/b:odd"]}, {"Binds": ["a/b:/c"]},
        {"Binds": ["/a:/b", "/c:/b"]}, {"Binds": ["/srv:/"]}, {"VolumesFrom": ["nobody"]},
        {"VolumesFrom": ["a:odd"]}, {"VolumeDriver": "odd", "Binds": ["nn:/x"]},
        {"Mounts": [{"Type": "odd", "Target": "/x"}]}, {"Mounts": [{"Type": "bind", "Target": "/x"}]},
        {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x"}]},
        {"Mounts": [{"Type": "volume", "Source": "n"}]},
        {"Mounts": [{"Type": "bind", "Source": "rel", "Target": "/x"}]},
        {"Mounts": [{"Type": "volume", "Source": "/abs", "Target": "/x"}]},
        {"Mounts": [{"Type": "tmpfs", "Source": "s", "Target": "/x"}]},
        {"Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/x", "VolumeOptions": {}}]},
        {"Mounts": [{"Type": "volume", "Target": "/x"}, {"Type": "volume", "Target": "/x"}]},
        {"Tmpfs": {"rel": ""}}, {"Tmpfs": {"/x": "odd=1"}}, {"Dns": ["odd"]},
        {"ExtraHosts": ["odd"]}, {"ExtraHosts": ["a:b"]}, {"Links": ["nobody:x"]}, {"CapAdd": ["ODD"]},
        {"CapDrop": ["ODD"]}, {"SecurityOpt": ["odd"]}, {"SecurityOpt": ["seccomp={"]},
        {"Ulimits": [{"Name": "odd", "Soft": 1, "Hard": 1}]},
        {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]},
        {"Sysctls": {"kernel.odd": "1"}, "NetworkMode": "host"}, {"Runtime": "odd"},
        {"LogConfig": {"Type": "odd"}}, {"LogConfig": {"Type": "json-file", "Config": {"odd": "1"}}},
        {"LogConfig": {"Type": "json-file", "Config": {"max-size": "x"}}},
        {"PortBindings": {"80/odd": []}}, {"PortBindings": {"x": []}},
        {"PortBindings": {"80/tcp": [{"HostPort": "x"}]}},
        {"PortBindings": {"80/tcp": [{"HostIp": "x", "HostPort": "1"}]}},
        {"Isolation": "hyperv"}, {"StorageOpt": {"odd": "1"}}, {"GroupAdd": [""]},
        {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n",
                      "CgroupPermissions": "odd"}]},
        {"DeviceCgroupRules": ["odd"]}, {"DeviceRequests": [{"Driver": "odd", "Count": 1}]},
        {"NetworkMode": "nonet"}, {"KernelMemory": 1 << 20}, {"OomKillDisable": True},
        {"Annotations": {"": "x"}}, {"ConsoleSize": [1, 2]}, {"CgroupParent": "a/../b"},
    )
] + [
    {"Healthcheck": {"Test": ["odd"]}}, {"Healthcheck": {"Interval": 5}},
    {"Healthcheck": {"Retries": -1}}, {"Healthcheck": {"Timeout": -1}}, {"StopSignal": "ODD"},
    {"WorkingDir": "rel"}, {"Hostname": "a_b!"}, {"Env": ["=x"]}, {"Env": [""]},
    {"ExposedPorts": {"x/tcp": {}}}, {"ExposedPorts": {"80/odd": {}}}, {"Volumes": {"rel": {}}},
    {"Volumes": {"/": {}}}, {"Image": "nothing"}, {"Image": ""}, {"Image": "BAD"},
    {"MacAddress": "odd"}, {"StopTimeout": -5}, {"Cmd": []}, {"Cmd": [""]}, {"Entrypoint": [""]},
    {"Labels": {"": "x"}},
    {"NetworkingConfig": {"EndpointsConfig": {"nonet": {}}}},
    {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "x"}}}}},
    {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["x"]}}}},
    {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"IPAMConfig":
        {"IPv4Address": "172.29.77.9"}}}}},
]  # fmt: skip


def _numbered(configs: list[dict[str, Any]]) -> list[Ask]:
    return [made(f"c{number}", **config) for number, config in enumerate(configs)]


_LISTED = [
    {"id": ["{one}"]}, {"name": ["^/on"]}, {"name": ["none-such"]}, {"label": ["a=b"]},
    {"label": ["a"]}, {"label": ["a=c"]}, {"status": ["exited"]}, {"status": ["running"]},
    {"status": ["created", "running"]}, {"status": ["odd"]}, {"exited": ["0"]}, {"exited": ["x"]},
    {"ancestor": ["busybox"]}, {"ancestor": ["none-such"]}, {"ancestor": ["busybox:latest"]},
    {"before": ["two"]}, {"since": ["one"]}, {"before": ["none-such"]}, {"network": ["bridge"]},
    {"network": ["none"]}, {"network": ["nonet"]}, {"volume": ["/data"]}, {"volume": ["named"]},
    {"volume": ["none-such"]}, {"health": ["none"]}, {"health": ["starting"]}, {"health": ["odd"]},
    {"publish": ["80"]}, {"publish": ["80-90/tcp"]}, {"expose": ["81"]}, {"expose": ["x"]},
    {"is-task": ["true"]}, {"is-task": ["false"]}, {"is-task": ["x"]}, {"isolation": ["default"]},
    {"odd": ["x"]}, {"label": {"a=b": True}}, "{", "[]", '{"label": "a"}', "null", "",
]  # fmt: skip

SCENES: dict[str, list[Ask]] = {
    "system": [
        get("/_ping"), Ask("HEAD", "/_ping"), get("/_ping", "1.24"), get("/version"), get("/info"),
        get("/info", "1.24"), get("/info", "1.41"), get("/plugins"), get("/plugins/x/json"),
        *(get(f"/{noun}") for noun in ("swarm", "nodes", "services", "tasks", "secrets", "configs")),
        get("/no/such"), Ask("PATCH", "/info"), get("/info", "1.23"), get("/info", "1.99"),
        get("/info", "x"), get("/events?since=1&until=2"), get("/events?since=x"),
        get("/events?since=2&until=1"), filtered("/events?since=1&until=2", "{"), get("/system/df"), get("/system/df", "1.40"),
        get("/system/df", "1.41"), *(get(f"/system/df?type={kind}") for kind in
        ("image", "container", "volume", "build-cache", "odd")),
        get("/system/df?type=image&type=volume"), post("/auth", "{"), post("/auth", {}),
        post("/session"), get("/images/search"), get("/images/search?term=x&limit=200"),
        post("/build/prune"), post("/build/prune?filters=%7B"),
        post("/build/prune?keep-storage=x"), get("/distribution/BAD/json"),
        get("/containers/json", "1.24"),
    ],
    "create": [
        made("plain"), get("/containers/plain/json"),
        *(get("/containers/plain/json", version) for version in OLD),
        get("/containers/plain/json?size=1"), made("plain"),
        post("/containers/create?name=rich", _RICH), get("/containers/rich/json"),
        *(get("/containers/rich/json", version) for version in OLD),
        get("/containers/rich/json?size=true"),
        post("/containers/create", {"Image": "busybox"}),
        post("/containers/create?name=a/b", {"Image": "busybox"}),
        post("/containers/create?name=x", {"Image": "busybox"}), post("/containers/create?name=/y", {"Image": "busybox"}),
        post("/containers/create?platform=linux/amd64", {"Image": "busybox"}),
        post("/containers/create?platform=linux/s390x", {"Image": "busybox"}),
        post("/containers/create?platform=odd", {"Image": "busybox"}),
        post("/containers/create", "{"), post("/containers/create", "[]"),
        post("/containers/create", ""), post("/containers/create", "null"), post("/containers/create", '{"Image": 5}'),
        post("/containers/create", '{"Image": "busybox"} x'), post("/containers/create"),
        Ask("POST", "/containers/create", '{"Image": "busybox"}', header={"Content-Type": "text/plain"}),
        post("/containers/create", {"Image": "busybox", "Odd": 1}), get("/containers/none-such/json"),
        *(post(f"/containers/create?name=v{version}", {"Image": "busybox"}, version) for version in OLD),
        *(get(f"/containers/v{version}/json", version) for version in OLD),
    ],
    "refused": _numbered(_REFUSED),
    "containers": [
        post("/containers/create?name=one", {**_RICH, "Cmd": ["-c", "sleep 100000"], "HostConfig":
             {"Binds": ["named:/named"], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "48211"}]}}},
             keep="one"),
        made("two", HostConfig={"NetworkMode": "none"}, ExposedPorts={"81/tcp": {}}, Cmd=["true"]),
        post("/containers/one/start"), post("/containers/one/start"), post("/containers/two/start"),
        post("/containers/two/wait"), get("/containers/one/json"), get("/containers/two/json"),
        get("/containers/json"), get("/containers/json?all=1"), get("/containers/json?limit=1"),
        get("/containers/json?limit=-1"), get("/containers/json?limit=x"),
        get("/containers/json?size=1&all=true"),
        *(get("/containers/json?all=1", version) for version in OLD),
        *(filtered("/containers/json?all=1", filters) for filters in _LISTED),
        get("/containers/one/top"), get("/containers/two/top"), get("/containers/one/top?ps_args=-odd"),
        get("/containers/one/changes"), get("/containers/none-such/changes"),
        get("/containers/one/stats?stream=0&one-shot=1"), get("/containers/two/stats?stream=0"),
        get("/containers/one/stats?stream=1&one-shot=1"), get("/containers/none-such/stats"),
        get("/containers/one/logs"), get("/containers/one/logs?stdout=1"),
        get("/containers/two/logs?stdout=1&since=x"), get("/containers/two/logs?stdout=1&tail=x"),
        get("/containers/two/logs?stdout=1"), get("/containers/two/logs?stdout=1", "1.41"),
        get("/containers/none-such/logs?stdout=1"),
        post("/containers/one/resize?h=10&w=20"), post("/containers/one/resize"),
        post("/containers/one/resize?h=x&w=1"), post("/containers/two/resize?h=10&w=20"),
        post("/containers/one/rename?name=three"), post("/containers/three/rename?name=two"),
        post("/containers/three/rename?name="), post("/containers/three/rename"),
        post("/containers/three/rename?name=three"), post("/containers/three/rename?name=a/b"),
        post("/containers/three/rename?name=one"), post("/containers/none-such/rename?name=x"),
        post("/containers/one/update", {"Memory": 64 << 20, "MemorySwap": 128 << 20}),
        post("/containers/one/update", {"CpuShares": 5, "RestartPolicy": {"Name": "always"}}),
        post("/containers/one/update", {"Memory": 5}), post("/containers/one/update", {}),
        post("/containers/one/update", "{"), post("/containers/one/update", {"RestartPolicy": {"Name": "odd"}}),
        post("/containers/none-such/update", {}), get("/containers/one/json"),
        post("/containers/one/pause"), post("/containers/one/pause"), get("/containers/one/json"),
        post("/containers/one/exec", {"Cmd": ["true"]}), delete("/containers/one"),
        post("/containers/one/start"),
        post("/containers/one/unpause"), post("/containers/one/unpause"),
        post("/containers/two/pause"), post("/containers/two/unpause"),
        post("/containers/two/kill"), post("/containers/one/kill?signal=ODD"),
        post("/containers/one/kill?signal=0"), post("/containers/one/kill?signal=SIGWINCH"),
        post("/containers/one/kill?signal=100"), post("/containers/none-such/kill"),
        post("/containers/one/wait?condition=odd"), post("/containers/none-such/wait"),
        delete("/containers/one"), delete("/containers/one?link=1"), delete("/containers/none-such"),
        post("/containers/one/stop?t=x"), post("/containers/one/stop?signal=ODD"),
        post("/containers/one/restart?t=0"), post("/containers/none-such/restart"),
        post("/containers/one/stop?t=0"), post("/containers/one/stop?t=0"), get("/containers/one/json"),
        post("/containers/none-such/stop"), post("/containers/none-such/start"),
        post("/containers/one/start?checkpoint=x"), post("/containers/one/start?detachKeys=odd"),
        post("/containers/one/attach"), post("/containers/two/attach?logs=1&stdout=1"),
        post("/containers/two/attach?detachKeys=odd&stream=1"),
        post("/containers/none-such/attach"), get("/containers/two/attach/ws"),
        get("/containers/none-such/export"), get("/containers/two/export"),
        delete("/containers/two"), delete("/containers/one?v=1"),
        made("bad", Cmd=["/none/such"]), post("/containers/bad/start"), get("/containers/bad/json"),
        made("dir", Cmd=["/etc"]), post("/containers/dir/start"), get("/containers/dir/json"),
        made("nouser", User="nobody-such"), post("/containers/nouser/start"), get("/containers/nouser/json"),
        made("nocwd", WorkingDir="/etc/passwd"), post("/containers/nocwd/start"), get("/containers/nocwd/json"),
        post("/containers/prune"), post("/containers/prune?filters=%7B"),
        Ask("POST", "/containers/prune?filters=" + quote('{"odd": ["x"]}')),
        Ask("POST", "/containers/prune?filters=" + quote('{"until": ["x"]}')),
        Ask("POST", "/containers/prune?filters=" + quote('{"until": ["1h", "2h"]}')),
    ],
    "execs": [
        made("box"), post("/containers/box/exec", {"Cmd": ["true"]}),
        post("/containers/box/start"),
        post("/containers/box/exec", {"Cmd": ["sh", "-c", "echo out; echo err >&2; exit 3"],
             "AttachStdout": True, "AttachStderr": True, "Env": ["A=b"], "WorkingDir": "/tmp",
             "User": "1000", "Privileged": True, "DetachKeys": "ctrl-x"}, keep="exec"),
        get("/exec/{exec}/json"), post("/exec/{exec}/start", {"Detach": True}),
        post("/exec/{exec}/start", {"Detach": True}),
        post("/containers/box/exec", {"Cmd": ["echo", "hello"], "AttachStdout": True}, keep="two"),
        post("/exec/{two}/start", {}), get("/exec/{two}/json"),
        post("/containers/box/exec", {"Cmd": ["echo", "hello"], "AttachStdout": True, "Tty": True,
             "ConsoleSize": [10, 20]}, keep="tty"),
        post("/exec/{tty}/start", {"Tty": True, "ConsoleSize": [10, 20]}), get("/exec/{tty}/json"),
        post("/exec/{tty}/resize?h=1&w=1"),
        post("/containers/box/exec", {"Cmd": ["/none/such"]}, keep="bad"),
        post("/exec/{bad}/start", {"Detach": True}), get("/exec/{bad}/json"),
        post("/containers/box/exec", {"Cmd": ["/none/such"], "AttachStdout": True}, keep="bad2"),
        post("/exec/{bad2}/start", {}), get("/exec/{bad2}/json"),
        post("/containers/box/exec", {"Cmd": ["id"], "User": "nobody-such"}, keep="user"),
        post("/exec/{user}/start", {"Detach": True}),
        post("/containers/box/exec", {"Cmd": ["true"], "WorkingDir": "/none"}, keep="cwd"),
        post("/exec/{cwd}/start", {"Detach": True}),
        post("/containers/box/exec", {}), post("/containers/box/exec", {"Cmd": []}), post("/containers/box/exec", "{"),
        post("/containers/box/exec", {"Cmd": ["true"], "DetachKeys": "odd"}),
        post("/containers/none-such/exec", {"Cmd": ["true"]}), get("/exec/none-such/json"),
        post("/exec/none-such/start", {}), post("/exec/none-such/resize?h=1&w=1"),
        post("/containers/box/exec", {"Cmd": ["sleep", "100"]}, keep="sleep"),
        post("/exec/{sleep}/resize?h=1&w=1"), post("/exec/{sleep}/start", {"Detach": True}),
        post("/exec/{sleep}/start", {"Detach": True}), get("/exec/{sleep}/json"),
        post("/exec/{sleep}/resize?h=x&w=1"), get("/containers/box/json"),
    ],
    "archive": [
        made("box"), Ask("HEAD", "/containers/box/archive?path=/etc/passwd"),
        get("/containers/box/archive?path=/etc/passwd"), get("/containers/box/archive"),
        get("/containers/box/archive?path="), get("/containers/box/archive?path=/none"),
        Ask("HEAD", "/containers/box/archive?path=/none"), get("/containers/none-such/archive?path=/"),
        Ask("PUT", "/containers/box/archive?path=/tmp", tar({"a": b"a"})),
        Ask("PUT", "/containers/box/archive?path=/none", tar({"a": b"a"})),
        Ask("PUT", "/containers/box/archive?path=/etc/passwd", tar({"a": b"a"})),
        Ask("PUT", "/containers/box/archive", tar({"a": b"a"})),
        Ask("PUT", "/containers/box/archive?path=/tmp", b"no tar at all, and longer than nothing" * 20),
        Ask("PUT", "/containers/box/archive?path=/&noOverwriteDirNonDir=1", tar({"etc": b"a"})),
        Ask("PUT", "/containers/none-such/archive?path=/", tar({"a": b"a"})),
        get("/containers/box/changes"),
    ],
    "images": [
        get("/images/json"), *(get("/images/json", version) for version in OLD),
        get("/images/json?all=1&digests=1&shared-size=1"), get("/images/busybox/json"),
        *(get("/images/busybox/json", version) for version in OLD),
        get("/images/none-such/json"), get("/images/BAD/json"), get("/images/busybox/history"),
        get("/images/none-such/history"),
        post("/images/busybox/tag?repo=rows&tag=1"), post("/images/busybox/tag?repo=rows"),
        post("/images/busybox/tag?repo=BAD"), post("/images/busybox/tag?repo=x&tag=a%20b"),
        post("/images/none-such/tag?repo=x"),
        *(filtered("/images/json", filters) for filters in (
            {"reference": ["rows"]}, {"reference": ["rows:*"]}, {"reference": ["r*"]},
            {"reference": ["["]}, {"dangling": ["true"]}, {"dangling": ["x"]},
            {"label": ["a"]}, {"before": ["rows:1"]}, {"since": ["busybox"]},
            {"before": ["none-such"]}, {"until": ["1h"]}, {"until": ["x"]}, {"odd": ["x"]})),
        delete("/images/rows:1"), delete("/images/rows:1"), delete("/images/none-such"), delete("/images/BAD"),
        delete("/images/rows:latest"), made("user"), delete("/images/busybox"), delete("/images/busybox?noprune=1"),
        post("/commit?container=user&repo=rows&tag=c&comment=why&author=me&pause=0"
             "&changes=ENV%20A%3Db&changes=CMD%20true"), get("/images/rows:c/json"), get("/images/rows:c/history"),
        post("/commit?container=user&repo=rows&tag=d", {"Env": ["X=y"], "Labels": {"l": "m"}}),
        get("/images/rows:d/json"), get("/images/rows:d/json", "1.43"),
        post("/commit"), post("/commit?container=none-such"), post("/commit?container=user&repo=BAD"),
        post("/commit?container=user&changes=ODD%20x"), post("/commit?container=user&changes=RUN%20x"),
        delete("/images/rows:c"), delete("/images/rows:d?force=1"),
        Ask("POST", "/images/create?fromSrc=-&repo=rows&tag=i&message=m&changes=ENV%20A%3Db", tar({"a": b"a"})),
        get("/images/rows:i/json"), get("/images/rows:i/history"), made("imported", Image="rows:i"),
        get("/containers/imported/json"), get("/images/json"),
        Ask("POST", "/images/create?fromSrc=-&repo=BAD", tar({"a": b"a"})),
        Ask("POST", "/images/create?fromSrc=-&changes=ODD", tar({"a": b"a"})),
        Ask("POST", "/images/create?fromSrc=-&platform=odd/x", tar({"a": b"a"})),
        Ask("POST", "/images/create?fromSrc=-&repo=x", b"no tar"),
        post("/images/create"), post("/images/create?fromImage=BAD"), post("/images/create?fromImage=x&tag=a%20b"),
        post("/images/create?fromImage=127.0.0.1:9/x&tag=y"),
        post("/images/create?fromImage=127.0.0.1:9/x&tag=y&platform=odd"),
        post("/images/create?fromImage=scratch"),
        post("/images/none-such/push"), post("/images/127.0.0.1:9/none/push?tag=x"),
        post("/images/busybox/tag?repo=127.0.0.1:9/x&tag=y"), post("/images/127.0.0.1:9/x/push?tag=y"),
        post("/images/BAD/push"), get("/images/none-such/get"), get("/images/busybox/get"),
        get("/images/get?names=busybox&names=none-such"), Ask("POST", "/images/load", b"no tar"),
        Ask("POST", "/images/load", tar({"a": b"a"})), Ask("POST", "/images/load?quiet=1", tar({})),
        delete("/images/127.0.0.1:9/x:y"), post("/images/prune"),
        *(Ask("POST", "/images/prune?filters=" + quote(json.dumps(filters))) for filters in (
            {"dangling": ["false"], "label": ["none"]}, {"dangling": ["x"]}, {"until": ["x"]}, {"odd": ["x"]})),
        get("/distribution/127.0.0.1:9/x/json"),
    ],
    "volumes": [
        get("/volumes"), post("/volumes/create", {"Name": "vv", "Labels": {"a": "b"}}),
        post("/volumes/create", {"Name": "vv"}), post("/volumes/create", {"Name": "vv", "Driver": "odd"}),
        post("/volumes/create", {}), post("/volumes/create"), post("/volumes/create", "{"), post("/volumes/create", {"Name": "a/b"}),
        post("/volumes/create", {"Name": "x"}), post("/volumes/create", {"Name": "ww", "Driver": "odd"}),
        post("/volumes/create", {"Name": "tt", "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}),
        post("/volumes/create", {"Name": "oo", "DriverOpts": {"odd": "1"}}),
        post("/volumes/create", {"Name": "pp", "DriverOpts": {"type": "tmpfs"}}),
        get("/volumes/vv"), get("/volumes/tt"), get("/volumes/none-such"), get("/volumes/vv", "1.24"),
        *(filtered("/volumes", filters) for filters in (
            {"name": ["vv"]}, {"label": ["a=b"]}, {"driver": ["local"]}, {"driver": ["odd"]},
            {"dangling": ["true"]}, {"dangling": ["x"]}, {"odd": ["x"]})),
        made("user", HostConfig={"Binds": ["vv:/v", "auto:/a"]}), delete("/volumes/vv"), delete("/volumes/vv?force=1"),
        filtered("/volumes", {"dangling": ["false"]}),
        delete("/volumes/none-such"), delete("/volumes/none-such?force=1"), delete("/volumes/tt"),
        Ask("PUT", "/volumes/vv?version=1", {}), post("/volumes/prune", version="1.41"),
        post("/volumes/prune"),
        *(Ask("POST", "/volumes/prune?filters=" + quote(json.dumps(filters))) for filters in (
            {"all": ["true"]}, {"all": ["x"]}, {"label": ["a"]}, {"odd": ["x"]})),
    ],
    "networks": [
        get("/networks"), get("/networks", "1.24"), get("/networks/bridge"), get("/networks/host"), get("/networks/none"),
        get("/networks/none-such"), get("/networks/bridge?scope=odd"), get("/networks/bridge?verbose=x"),
        post("/networks/create", {"Name": "n", "Labels": {"a": "b"}}, keep="n"), get("/networks/n"), get("/networks/n", "1.43"),
        post("/networks/create", {"Name": "n"}), post("/networks/create", {"Name": "n"}, "1.43"),
        post("/networks/create", {"Name": "n", "CheckDuplicate": True}, "1.43"),
        post("/networks/create", {"Name": "m", "CheckDuplicate": True, "Driver": "bridge", "Internal": True,
             "Attachable": True, "EnableIPv6": True, "Options": {"com.docker.network.driver.mtu": "1400"},
             "IPAM": {"Driver": "default", "Options": {}, "Config": [
                 {"Subnet": "10.213.9.0/24", "IPRange": "10.213.9.128/25", "Gateway": "10.213.9.9",
                  "AuxiliaryAddresses": {"a": "10.213.9.10"}}, {"Subnet": "fd00:213::/64"}]}}),
        get("/networks/m"),
        *(post("/networks/create", body) for body in (
            {}, {"Name": ""}, {"Name": "bridge"}, {"Name": "host"}, {"Name": "x1", "Driver": "odd"}, {"Name": "x2", "Driver": "host"},
            {"Name": "x3", "Driver": "null"}, {"Name": "x4", "Driver": "overlay"}, {"Name": "x5", "Scope": "swarm"},
{"Name": "x7", "Ingress": True},
            {"Name": "x8", "IPAM": {"Config": [{"Subnet": "odd"}]}}, {"Name": "x9", "IPAM": {"Driver": "odd"}},
            {"Name": "x10", "IPAM": {"Config": [{"Subnet": "10.213.9.0/25"}]}},
            {"Name": "x11", "IPAM": {"Config": [{"Subnet": "10.212.0.7/24"}]}},
            {"Name": "x12", "IPAM": {"Config": [{"Subnet": "10.212.0.0/24", "Gateway": "10.9.9.9"}]}},
            {"Name": "x13", "IPAM": {"Config": [{"Subnet": "10.212.0.0/24", "Gateway": "odd"}]}},
            {"Name": "x14", "IPAM": {"Config": [{"Subnet": "10.212.0.0/24", "IPRange": "10.9.9.0/24"}]}},
            {"Name": "x15", "IPAM": {"Config": [{"Subnet": "10.212.0.0/24", "AuxiliaryAddresses": {"a": "10.9.9.9"}}]}},
            {"Name": "x16", "IPAM": {"Config": [{"Gateway": "10.212.0.1"}]}},
            {"Name": "x18", "Options": {"com.docker.network.driver.mtu": "x"}},
            {"Name": "x19", "ConfigFrom": {"Network": "none-such"}}, {"Name": "c", "ConfigOnly": True},
            {"Name": "x20", "ConfigOnly": True, "ConfigFrom": {"Network": "c"}})),
        post("/networks/create", "{"), post("/networks/create"), get("/networks/c"),
        *(filtered("/networks", filters) for filters in (
            {"name": ["n"]}, {"id": ["{n}"]}, {"driver": ["bridge"]}, {"label": ["a=b"]}, {"scope": ["local"]},
            {"scope": ["odd"]}, {"type": ["custom"]}, {"type": ["builtin"]}, {"type": ["odd"]},
            {"dangling": ["true"]}, {"dangling": ["x"]}, {"odd": ["x"]})),
        made("box"), post("/networks/n/connect", {"Container": "box"}), get("/containers/box/json"),
        post("/containers/box/start"), get("/containers/box/json"), get("/networks/n"), get("/networks/bridge"), get("/networks", "1.24"),
        post("/networks/n/connect", {"Container": "box"}),
        post("/networks/m/connect", {"Container": "box", "EndpointConfig": {"Aliases": ["al"],
             "IPAMConfig": {"IPv4Address": "10.213.9.77", "IPv6Address": "fd00:213::77"}}}),
        get("/networks/m"), get("/containers/box/json"), delete("/networks/n"),
        *(post(f"/networks/{name}/connect", body) for name, body in (
            ("n", {}), ("n", {"Container": "none-such"}), ("none-such", {"Container": "box"}), ("host", {"Container": "box"}),
            ("none", {"Container": "box"}), ("n", "{"), ("c", {"Container": "box"}))),
        post("/networks/m/disconnect", {"Container": "box"}),
        post("/networks/m/disconnect", {"Container": "box"}), post("/networks/m/disconnect", {"Container": "none-such"}),
        post("/networks/none-such/disconnect", {"Container": "box"}), post("/networks/m/disconnect", {"Container": "box", "Force": True}),
        *(post("/networks/m/connect", {"Container": "box", "EndpointConfig": {"IPAMConfig": {"IPv4Address": address}}})
          for address in ("10.9.9.9", "odd", "10.213.9.10")),
        post("/networks/bridge/connect", {"Container": "box", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.213.9.77"}}}),
        made("auto", HostConfig={"NetworkMode": "n"}, NetworkingConfig={"EndpointsConfig": {"n": {"Aliases": ["q"],
             "MacAddress": "02:42:ac:11:00:09"}, "m": {}}}), get("/containers/auto/json"), post("/containers/auto/start"), get("/containers/auto/json"),
        get("/containers/auto/json", "1.43"),
        delete("/networks/bridge"), delete("/networks/none-such"), delete("/networks/m"), post("/networks/prune"),
        *(Ask("POST", "/networks/prune?filters=" + quote(json.dumps(filters))) for filters in (
            {"until": ["x"]}, {"label": ["none"]}, {"odd": ["x"]})),
    ],
    "stricter": [
        *(post("/networks/create", body) for body in (
            {"Name": "x1", "Scope": "odd"}, {"Name": "a/b"},
            {"Name": "x2", "IPAM": {"Config": [{"Subnet": "fd00:212::/64"}]}})),
        filtered("/events?since=1&until=2", {"odd": ["x"]}), get("/images/get"),
        post("/images/busybox/tag"), Ask("POST", "/containers/create", {"Cmd": ["true"]}),
    ],
    "build": [
        post("/build"), Ask("POST", "/build", tar({"Dockerfile": b"FROM busybox\nENV A=b\nLABEL x=y\nRUN echo hi\n"})),
        Ask("POST", "/build?q=1", tar({"Dockerfile": b"FROM busybox\nENV A=b\n"})),
        Ask("POST", "/build?labels=%7B%22a%22%3A%22b%22%7D&t=rows:b", tar({"Dockerfile": b"FROM busybox\n"})), get("/images/rows:b/json"), get("/images/rows:b/history"),
        Ask("POST", "/build?dockerfile=other", tar({"Dockerfile": b"FROM busybox\n"})),
        Ask("POST", "/build", tar({"Dockerfile": b"ODD x\n"})), Ask("POST", "/build", tar({"Dockerfile": b""})),
        Ask("POST", "/build", tar({"Dockerfile": b"FROM busybox\nODD x\n"})), Ask("POST", "/build", tar({"Dockerfile": b"FROM busybox\nRUN exit 3\n"})),
        Ask("POST", "/build", tar({"Dockerfile": b"FROM busybox\nCOPY none /\n"})), Ask("POST", "/build?t=BAD", tar({"Dockerfile": b"FROM busybox\n"})),
        Ask("POST", "/build?target=none", tar({"Dockerfile": b"FROM busybox\n"})), Ask("POST", "/build", b"no tar"),
        Ask("POST", "/build?buildargs=%7B", tar({"Dockerfile": b"FROM busybox\n"})), Ask("POST", "/build?platform=odd", tar({"Dockerfile": b"FROM busybox\n"})),
        Ask("POST", "/build?version=7", tar({"Dockerfile": b"FROM busybox\n"})),
        Ask("POST", "/build?buildargs=%7B%22UNUSED%22%3A%22b%22%7D", tar({"Dockerfile": b"FROM busybox\n"})),
    ],
    "build parameters": [
        *(Ask("POST", f"/build?{query}", tar({"Dockerfile": text})) for query, text in (
            ("t=rows:p&memory=67108864&memswap=134217728", b"FROM busybox\nRUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes\n"),
            ("cpushares=512&cpuperiod=50000&cpuquota=25000&cpusetcpus=0&cpusetmems=0", b"FROM busybox\nRUN cd /sys/fs/cgroup; cat cpu/cpu.shares cpu/cpu.cfs_period_us cpu/cpu.cfs_quota_us cpuset/cpuset.cpus cpuset/cpuset.mems\n"),
            ("shmsize=8388608", b"FROM busybox\nRUN df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2\n"),
            ("ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A321%2C%22Hard%22%3A654%7D%5D", b"FROM busybox\nRUN ulimit -Sn; ulimit -Hn\n"),
            ("extrahosts=named%3A10.9.8.7&extrahosts=other%3A10.9.8.6", b"FROM busybox\nRUN grep -e named -e other /etc/hosts\n"),
            ("extrahosts=%7B%22named%22%3A%2210.9.8.7%22%7D", b"FROM busybox\nRUN true\n"), ("extrahosts=odd", b"FROM busybox\nRUN true\n"),
            ("networkmode=none", b"FROM busybox\nRUN ls /sys/class/net\n"), ("networkmode=no-such", b"FROM busybox\nRUN true\n"),
            ("buildargs=%7B%22A%22%3A%22b%22%2C%22N%22%3Anull%7D", b"FROM busybox\nARG A\nARG N=own\nRUN echo $A $N\n"),
            ("target=one", b"FROM busybox AS one\nENV A=b\nFROM busybox\nRUN false\n"),
            ("target=0", b"FROM busybox\nENV A=b\nFROM busybox\nRUN false\n"),
            ("pull=1", b"FROM 127.0.0.1:9/none\n"), ("cachefrom=%5B%22none-such%22%5D", b"FROM busybox\nENV A=c\n"), ("cachefrom=odd", b"FROM busybox\n"),
            ("nocache=1", b"FROM busybox\nRUN echo again\n"), ("rm=0", b"FROM busybox\nENV R=0\n"), ("rm=1&forcerm=1", b"FROM busybox\nENV R=1\n"),
            ("q=1", b"FROM busybox\nRUN exit 5\n"), ("q=true&t=rows:q", b"FROM busybox\nENV A=b\n"),
            ("squash=1", b"FROM busybox\nENV A=b\n"), ("version=1", b"FROM busybox\nENV A=b\n"),
            ("outputs=%5B%7B%22Type%22%3A%22local%22%7D%5D", b"FROM busybox\n"), ("isolation=hyperv", b"FROM busybox\n"), ("isolation=default", b"FROM busybox\nENV A=b\n"),
            ("securityopt=%5B%22seccomp%3Dunconfined%22%5D", b"FROM busybox\nRUN grep Seccomp: /proc/self/status\n"),
            ("securityopt=odd", b"FROM busybox\n"), ("platform=linux/amd64", b"FROM busybox\nENV A=b\n"), ("platform=linux/s390x", b"FROM busybox\nENV A=b\n"), ("platform=a/b/c/d", b"FROM busybox\n"),
            ("t=rows:one&t=rows:two", b"FROM busybox\nENV A=b\n"), ("t=rows:x@sha256:" + "0" * 64, b"FROM busybox\n"),
            ("memory=1", b"FROM busybox\nRUN true\n"), ("memory=odd", b"FROM busybox\n"), ("memswap=1&memory=67108864", b"FROM busybox\nRUN true\n"),
            ("cpuperiod=1", b"FROM busybox\nRUN true\n"), ("cpuquota=1", b"FROM busybox\nRUN true\n"), ("cpusetcpus=99", b"FROM busybox\nRUN true\n"), ("cpushares=odd", b"FROM busybox\n"), ("shmsize=-1", b"FROM busybox\nRUN true\n"), ("shmsize=odd", b"FROM busybox\n"),
            ("labels=odd", b"FROM busybox\n"), ("ulimits=odd", b"FROM busybox\n"), ("remote=http%3A%2F%2F127.0.0.1%3A9%2Fnone", b""), ("remote=odd", b""),
            ("dockerfile=..%2Fout", b"FROM busybox\n"), ("remote=client-session&version=1", b"FROM busybox\n"),
        )),
        Ask("POST", "/build?dockerfile=sub/other", tar({"sub/other": b"FROM busybox\nENV A=b\n"})),
    ],
}  # fmt: skip

MATCHED = (
    "No such (container|exec)",
    "^network .* not found$",
    "no such volume",
    "volume is in use",
    "already (exists|in use|paused|stopped|allocated)",
    "is not (running|paused)",
    "Conflict[.] ",
    "executable file not found",
    "Could not find the file",
    "manifest unknown",
    "too old",
)
"""Wording that clients look for in errors.  Other sentences are each engine's own."""

_NAMES = "names and places of its own"
_NEWER = "as in newer versions of Docker's engine"
_EARLIER = "refused when it is made, where Docker's engine fails later or ignores it"
_NO_LEGACY = "images do not name the container that they were made from"

DIFFERS: list[tuple[str, str, str]] = [
    # -- the system -----------------------------------------------------------------------------
    ("/_ping", "/builder-version", "the builder is the classic one"),
    ("/version$", "/body/", "versions of its own"),
    (
        "/info$",
        "/body/(Driver|ID|Init|Debug|Default|CDI|Index|Logging|OS|Operating|Plugins|Runtimes|Server"
        "|LiveRestore|.*Commit|RegistryConfig/(Index|Insecure|Mirrors))",
        "facts of its own",
    ),
    ("/plugins/x/json|/session", "/status", "out of scope: 501 or 503, as all of its endpoints"),
    ("/build[?]version=", "/status", "the builder's other protocol is not spoken: 501"),
    # -- containers -----------------------------------------------------------------------------
    (
        "GET /(containers|images)/",
        "/body/(GraphDriver|Driver$|DockerVersion|LogPath|NetworkSettings/Sandbox"
        "|HostConfig/(Runtime|LogConfig/Type))",
        _NAMES,
    ),
    (
        "GET /(containers|volumes|system/df)|POST /volumes/create",
        "/(Config/Env|HostConfig/(Dns|PortBindings)|Labels$|RepoDigests)",
        "an empty list or map where Docker's engine writes null",
    ),
    ("GET /containers/.*json", "HostConfig/CgroupnsMode", "private where control groups are v2"),
    ("GET /containers", "GwPriority|MaskedPaths", _NEWER),
    ("GET /containers/(one|box)/json", "DNSNames|NetworkID", "known when the container starts"),
    ("GET /containers/one/json", "Health/Status", "a health check that is just beginning"),
    ("GET /containers/json", "/Mounts/.*/Source", "Docker's engine forgets anonymous ones"),
    ("GET /containers/json.*(publish|expose)", "/body$", "Docker's engine finds none"),
    ("GET /containers/one/top", "/Processes", "numbers and users of processes"),
    ("GET /containers/one/changes", "/Path", "the order"),
    ("GET /containers/one/stats", "/", "Docker's engine has none for control groups like these"),
    ("GET /containers/(bad|dir|nouser)/json", "/(Host.*|Resolv.*)Path|Error", _NAMES),
    ("/containers/nocwd/|/containers/prune", "/", "Docker's engine makes no such container"),
    ("/(attach|start)", "/(type|body)$", "says what a stream is, and errors as JSON"),
    ("GET /exec/", "/ExitCode", "127 for a command that does not exist, as for containers"),
    ("/containers/create", "/status", _EARLIER),
    # -- networks -------------------------------------------------------------------------------
    ("GET /networks", "IPAM/Config/.*/Gateway", _NEWER),
    ("GET /networks", "Options/com.docker.network.(bridge.name|driver.mtu)", _NAMES),
    ("GET /networks", "IPAM/Options", "null where the client gave no option"),
    # -- images ---------------------------------------------------------------------------------
    ("GET /images/", "LastTagTime", "not kept"),
    ("GET /images/", "/(Container$|ContainerConfig|Config/(Hostname|Image|Labels))", _NO_LEGACY),
    ("GET /images/json.*reference", "/", "a pattern that is none matches nothing"),
    ("POST /(images/create|build).*platform=odd", "/status", "no such platform is found"),
    ("POST /images/.*/push", "/status", "the header of credentials is not asked for"),
    ("POST /images/load", "/(error|errorDetail/message)$", "words of its own"),
    # -- what Docker's engine takes ---------------------------------------------------------------
    ("/networks/create|/events|/images/get$|/images/busybox/tag$", "/status", _EARLIER),
    # -- builds: compared as a whole by the tests of the classic builder --------------------------
    (
        "POST /build[?](extrahosts=odd|shmsize=-|(memory|memswap|cpuperiod|cpuquota|cpusetcpus)=(1|99)\\b"
        "|(memory|cpushares)=odd|pull=1|platform=linux/s390x)",
        "/status",
        _EARLIER,
    ),
    ("POST /build[?]outputs", "/status", "refused, where Docker's engine ignores it"),
    ("POST /build[?](target=0|squash|securityopt)", "/status", "taken, as BuildKit does"),
    ("POST /build[?]extrahosts=%7B", "/printed", "taken as some clients send it"),
    ("POST /build.*client-session", "/status", "the builder's other protocol is not spoken: 501"),
    ("POST /build", "/body", "steps that change nothing but metadata run nothing"),
    ("GET /images/rows:b", "/", "labels of a build's request are no step of their own"),
]
"""What differs on purpose: a pattern of requests, one of places in their answers, and why."""
