"""What each flag of the docker CLI has to do: the tables of ``test_docker_cli_flags``.

Words in braces are filled in by the test: ``{tmp}`` a folder, ``{net}`` a network with subnets of
both families, ``{box}`` a running container, ``{registry}`` a registry.
"""

from __future__ import annotations

from dataclasses import dataclass

DISK = "/dev/vda"


@dataclass(frozen=True)
class Setting:
    """A flag of ``create`` and ``run``, what ``inspect`` shows of it, or why it is refused.

    ``host_may_refuse``: not every host has it (a scheduler, a GPU); ``run`` passes the error on.
    """

    flag: str
    arguments: str
    template: str = "{{.Name}}"
    shown: str = "/it"
    refused: str = ""
    host_may_refuse: bool = False


def _both(short: str, long: str, value: str, template: str, shown: str) -> list[Setting]:
    return [
        Setting(short, f"{short} {value}".strip(), template, shown),
        Setting(long, f"{long} {value}".strip(), template, shown),
    ]


def _host(flag: str, value: str, field: str, shown: str, host_may_refuse: bool = False) -> Setting:
    template = f"{{{{json .HostConfig.{field}}}}}"
    return Setting(flag, f"{flag} {value}".strip(), template, shown, "", host_may_refuse)


def _config(flag: str, value: str, field: str, shown: str) -> Setting:
    return Setting(flag, f"{flag} {value}".strip(), f"{{{{json .Config.{field}}}}}", shown)


def _health(flag: str, value: str, field: str, shown: str) -> Setting:
    health = f"{{{{json .Config.Healthcheck.{field}}}}}"
    return Setting(flag, f"--health-cmd true {flag} {value}", health, shown)


def _endpoint(flag: str, value: str, field: str, shown: str) -> Setting:
    template = f'{{{{json (index .NetworkSettings.Networks "net").{field}}}}}'
    return Setting(flag, f"--network {{net}} {flag} {value}", template, shown)


def _mount(flag: str, value: str, shown: str) -> Setting:
    template = "{{range .Mounts}}{{.Type}}:{{.Destination}}:{{.RW}} {{end}}"
    return Setting(flag, f"{flag} {value}", template, shown)


SETTINGS: list[Setting] = [
    _host("--add-host", "a.example:10.1.2.3", "ExtraHosts", '["a.example:10.1.2.3"]'),
    _host("--annotation", "a=b", "Annotations", '{"a":"b"}'),
    *_both("-a", "--attach", "stdout", "{{.Config.AttachStdout}}", "true"),
    _host("--blkio-weight", "300", "BlkioWeight", "300", True),
    _host(
        "--blkio-weight-device",
        f"{DISK}:200",
        "BlkioWeightDevice",
        f'[{{"Path":"{DISK}","Weight":200}}]',
        host_may_refuse=True,
    ),
    _host("--cap-add", "NET_ADMIN", "CapAdd", '["CAP_NET_ADMIN"]'),
    _host("--cap-drop", "MKNOD", "CapDrop", '["CAP_MKNOD"]'),
    _host("--cgroup-parent", "{cgroup}", "CgroupParent", '"{cgroup}"'),
    _host("--cgroupns", "private", "CgroupnsMode", '"private"'),
    Setting("--cidfile", "--cidfile {tmp}/cid"),
    _host("--cpu-period", "50000", "CpuPeriod", "50000"),
    _host("--cpu-quota", "25000", "CpuQuota", "25000"),
    _host("--cpu-rt-period", "950000", "CpuRealtimePeriod", "950000", True),
    _host("--cpu-rt-runtime", "950", "CpuRealtimeRuntime", "950", True),
    *_both("-c", "--cpu-shares", "512", "{{.HostConfig.CpuShares}}", "512"),
    _host("--cpus", "0.5", "NanoCpus", "500000000"),
    _host("--cpuset-cpus", "0", "CpusetCpus", '"0"'),
    _host("--cpuset-mems", "0", "CpusetMems", '"0"'),
    Setting(
        "--device",
        "--device /dev/zero:/dev/x:r",
        "{{(index .HostConfig.Devices 0).PathInContainer}}",
        "/dev/x",
    ),
    _host("--device-cgroup-rule", '"c 1:5 rwm"', "DeviceCgroupRules", '["c 1:5 rwm"]'),
    *(
        _host(flag, f"{DISK}:{value}", field, f'[{{"Path":"{DISK}","Rate":{rate}}}]')
        for flag, value, field, rate in (
            ("--device-read-bps", "1mb", "BlkioDeviceReadBps", 1 << 20),
            ("--device-read-iops", "100", "BlkioDeviceReadIOps", 100),
            ("--device-write-bps", "1mb", "BlkioDeviceWriteBps", 1 << 20),
            ("--device-write-iops", "100", "BlkioDeviceWriteIOps", 100),
        )
    ),
    _host("--dns", "10.0.0.53", "Dns", '["10.0.0.53"]'),
    _host("--dns-option", "ndots:2", "DnsOptions", '["ndots:2"]'),
    _host("--dns-search", "example.org", "DnsSearch", '["example.org"]'),
    _config("--domainname", "example.org", "Domainname", '"example.org"'),
    _config("--entrypoint", "/bin/echo", "Entrypoint", '["/bin/echo"]'),
    *_both("-e", "--env", "A=b", "{{index .Config.Env 0}}", "A=b"),
    Setting("--env-file", "--env-file {tmp}/env", "{{index .Config.Env 0}}", "FROM=file"),
    _config("--expose", "81", "ExposedPorts", '{"81/tcp":{}}'),
    Setting("--gpus", "--gpus all", host_may_refuse=True),
    _host("--group-add", "2000", "GroupAdd", '["2000"]'),
    _config("--health-cmd", "true", "Healthcheck.Test", '["CMD-SHELL","true"]'),
    _health("--health-interval", "7s", "Interval", "7000000000"),
    _health("--health-retries", "4", "Retries", "4"),
    _health("--health-start-interval", "6s", "StartInterval", "6000000000"),
    _health("--health-start-period", "8s", "StartPeriod", "8000000000"),
    _health("--health-timeout", "9s", "Timeout", "9000000000"),
    *_both("-h", "--hostname", "named", "{{.Config.Hostname}}", "named"),
    _host("--init", "", "Init", "true"),
    *_both("-i", "--interactive", "", "{{.Config.OpenStdin}}", "true"),
    _endpoint("--ip", "10.214.9.77", "IPAMConfig.IPv4Address", '"10.214.9.77"'),
    _endpoint("--ip6", "fd00:214::77", "IPAMConfig.IPv6Address", '"fd00:214::77"'),
    _host("--ipc", "host", "IpcMode", '"host"'),
    *_both("-l", "--label", "a=b", '{{index .Config.Labels "a"}}', "b"),
    Setting("--label-file", "--label-file {tmp}/labels", "{{.Config.Labels.of}}", "file"),
    _host("--link", "{box}:alias", "Links", '["/{box}:/it/alias"]'),
    _endpoint("--link-local-ip", "169.254.3.4", "IPAMConfig.LinkLocalIPs", '["169.254.3.4"]'),
    _host("--log-driver", "json-file", "LogConfig.Type", '"json-file"'),
    _host("--log-opt", "max-size=1m", "LogConfig.Config", '{"max-size":"1m"}'),
    Setting("--mac-address", "--mac-address 02:42:0a:d6:09:4d"),
    *_both("-m", "--memory", "64m", "{{.HostConfig.Memory}}", str(64 << 20)),
    _host("--memory-reservation", "32m", "MemoryReservation", str(32 << 20)),
    Setting(
        "--memory-swap",
        "-m 64m --memory-swap 128m",
        "{{.HostConfig.MemorySwap}}",
        str(128 << 20),
    ),
    _host("--memory-swappiness", "10", "MemorySwappiness", "10"),
    _mount("--mount", "type=tmpfs,target=/mnt", "tmpfs:/mnt:true"),
    Setting("--name", "", "{{.Name}}", "/it"),
    _host("--network", "none", "NetworkMode", '"none"'),
    Setting(
        "--network-alias",
        "--network {net} --network-alias other",
        '{{index (index .NetworkSettings.Networks "net").Aliases 0}}',
        "other",
    ),
    _config("--no-healthcheck", "", "Healthcheck.Test", '["NONE"]'),
    _host("--oom-kill-disable", "-m 64m", "OomKillDisable", "true"),
    _host("--oom-score-adj", "300", "OomScoreAdj", "300"),
    _host("--pid", "host", "PidMode", '"host"'),
    _host("--pids-limit", "50", "PidsLimit", "50"),
    Setting("--platform", "--platform linux/amd64", "{{.Platform}}", "linux"),
    _host("--privileged", "", "Privileged", "true"),
    *_both(
        "-p",
        "--publish",
        "127.0.0.1::80",
        '{{(index (index .HostConfig.PortBindings "80/tcp") 0).HostIp}}',
        "127.0.0.1",
    ),
    *_both("-P", "--publish-all", "", "{{.HostConfig.PublishAllPorts}}", "true"),
    Setting("--pull", "--pull never"),
    Setting("-q", "-q"),
    Setting("--quiet", "--quiet"),
    _host("--read-only", "", "ReadonlyRootfs", "true"),
    _host(
        "--restart",
        "on-failure:3",
        "RestartPolicy",
        '{"Name":"on-failure","MaximumRetryCount":3}',
    ),
    _host("--rm", "", "AutoRemove", "true"),
    _host("--runtime", "sampan", "Runtime", '"sampan"'),
    _host("--security-opt", "no-new-privileges", "SecurityOpt", '["no-new-privileges"]'),
    _host("--shm-size", "32m", "ShmSize", str(32 << 20)),
    _config("--stop-signal", "SIGUSR1", "StopSignal", '"SIGUSR1"'),
    _config("--stop-timeout", "3", "StopTimeout", "3"),
    Setting("--storage-opt", "--storage-opt size=1G", refused="storage"),
    _host("--sysctl", "net.ipv4.ip_forward=1", "Sysctls", '{"net.ipv4.ip_forward":"1"}'),
    _host("--tmpfs", "/mnt:size=1m", "Tmpfs", '{"/mnt":"size=1m"}'),
    *_both("-t", "--tty", "", "{{.Config.Tty}}", "true"),
    Setting(
        "--ulimit",
        "--ulimit nofile=100:200",
        "{{range .HostConfig.Ulimits}}{{.Name}}={{.Soft}}:{{.Hard}}{{end}}",
        "nofile=100:200",
    ),
    Setting("--use-api-socket", "--use-api-socket"),
    *_both("-u", "--user", "1000:1000", "{{.Config.User}}", "1000:1000"),
    _host("--userns", "host", "UsernsMode", '"host"'),
    _host("--uts", "host", "UTSMode", '"host"'),
    _mount("-v", "{tmp}:/mnt:ro", "bind:/mnt:false"),
    _mount("--volume", "flags-volume:/mnt", "volume:/mnt:true"),
    _host("--volume-driver", "local", "VolumeDriver", '"local"'),
    _host("--volumes-from", "{box}:ro", "VolumesFrom", '["{box}:ro"]'),
    *_both("-w", "--workdir", "/tmp", "{{.Config.WorkingDir}}", "/tmp"),
]


@dataclass(frozen=True)
class Row:
    """A command with flags: what has to run before, and a pattern of all that it prints.

    ``before`` and ``line`` are docker commands without the word docker; ``stdin`` names a file.
    """

    command: str
    flags: str
    line: str
    prints: str = ""
    before: tuple[str, ...] = ()
    code: int = 0
    stdin: str = ""


def _sleeper(name: str, flags: str = "") -> str:
    return f"run -d --name {name} {flags} busybox sleep 100000"


def _talker(name: str) -> str:
    return f'run -d -i --name {name} busybox sh -c "echo out; echo err >&2; read x; exit 3"'


_MADE = "create --name xx busybox true"
_RAN = "run --name xx busybox sh -c 'echo one; sleep 0.1; echo two'"
_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
_HEX = r"[0-9a-f]{12}"
_LONG = r"[0-9a-f]{64}"
_DIGEST = r"sha256:[0-9a-f]{64}"
_UPDATES = (
    "--cpu-period 50000|--cpu-quota 25000|-c 99|--cpu-shares 99|--cpus 1.5|--cpuset-cpus 0|"
    "--cpuset-mems 0|-m 64m --memory-swap -1|--memory 64m --memory-swap -1|"
    "--memory-reservation 32m|-m 64m --memory-swap 96m|--pids-limit 77|--restart always"
)
_BUILT = r"Successfully built [0-9a-f]{12}\n"
_SWARM = "swarm"
_PUSHED = ("tag busybox {registry}/flags:1", "push -q {registry}/flags:1")
_LISTED = (*_PUSHED, "manifest create --insecure {registry}/list:1 {registry}/flags:1")

ROWS: list[Row] = [
    Row("builder prune", "--filter -f", "builder prune -f --filter until=24h", "Total"),
    Row("builder prune", "-a --force --keep-storage", "builder prune -a --force --keep-storage 1g",
        r"Total:?\s+0B|Total reclaimed space: 0B"),
    Row("builder prune", "--all", "builder prune --all -f", "Total"),
    # -- containers --------------------------------------------------------------------------
    Row("container attach", "--no-stdin --sig-proxy --detach-keys",
        "container attach --no-stdin --sig-proxy=false --detach-keys ctrl-x xx", "out",
        ("create --name xx busybox sh -c 'sleep 0.5; echo out'", "start xx")),
    Row("container commit", "-a -c -m", "container commit -a me -m why -c 'ENV A=b' xx flags:1",
        f"{_DIGEST}\n", (_RAN,)),
    Row("container commit", "--author --change --message --no-pause",
        "commit --author me --message why --change 'CMD true' --no-pause xx flags:2",
        f"{_DIGEST}\n", (_sleeper("xx"),)),
    Row("container cp", "-a", "container cp -a {tmp}/env xx:/copied", "", (_MADE,)),
    Row("container cp", "--archive -q", "cp --archive -q {tmp}/env xx:/copied", "^$", (_MADE,)),
    Row("container cp", "-L --quiet", "cp -L --quiet xx:/bin/sh {tmp}/out", "^$", (_MADE,)),
    Row("container cp", "--follow-link", "cp --follow-link xx:/bin/sh {tmp}/out2", "", (_MADE,)),
    Row("container create", "--help", "container create --help", "Usage:"),
    Row("container run", "--help", "run --help", "Usage:"),
    Row("container diff", "", "container diff xx", r"^(C /etc\n)?A /made\n$",
        ("run --name xx busybox touch /made",)),
    Row("container exec", "-e -i -u -w", "container exec -i -e A=b -u 1000 -w /tmp {box} "
        "sh -c 'echo $A; id -u; pwd; cat'", "^b\n1000\n/tmp\nFROM=file", stdin="env"),
    Row("container exec", "--env --env-file --interactive --user --workdir --privileged",
        "exec --env A=b --env-file {tmp}/env --interactive --user user --workdir /tmp --privileged "
        "{box} sh -c 'echo $A $FROM; id -u; pwd'", "^b file\n1000\n/tmp\n$"),
    Row("container exec", "-d --detach-keys", "exec -d --detach-keys ctrl-x {box} true", "^$"),
    Row("container exec", "--detach", "exec --detach {box} true", "^$"),
    Row("container exec", "-t", "exec -t {box} tty", "/dev/pts/"),
    Row("container exec", "--tty", "exec --tty {box} tty", "/dev/pts/"),
    Row("container export", "-o", "container export -o {tmp}/x.tar xx", "^$", (_MADE,)),
    Row("container export", "--output", "export --output {tmp}/x.tar xx", "^$", (_MADE,)),
    Row("container inspect", "-f", "container inspect -f '{{{{.Name}}}}' xx", "^/xx\n$", (_MADE,)),
    Row("container inspect", "--format --size",
        "container inspect --size --format '{{{{.SizeRootFs}}}}' xx", r"^\d+\n$", (_MADE,)),
    Row("container inspect", "-s", "container inspect -s xx", '"SizeRw": ', (_MADE,)),
    Row("container kill", "-s", "container kill -s TERM xx", "^xx\n$", (_sleeper("xx", "--init"),)),
    Row("container kill", "--signal", "kill --signal 9 xx", "^xx\n$", (_sleeper("xx"),)),
    Row("container logs", "--details -t", "container logs --details -t xx", f"^{_STAMP}  one\n",
        (_RAN,)),
    Row("container logs", "-f -n", "logs -f -n 1 xx", "^two\n$", (_RAN,)),
    Row("container logs", "--follow --tail", "logs --follow --tail 1 xx", "^two\n$", (_RAN,)),
    Row("container logs", "--timestamps", "logs --timestamps xx", f"^{_STAMP} one\n", (_RAN,)),
    Row("container logs", "--since", "logs --since 1h xx", "^one\ntwo\n$", (_RAN,)),
    Row("container logs", "--until", "logs --until 1h xx", "^$", (_RAN,)),
    Row("container ls", "", "container ls", "^CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS"
        f" +NAMES\n(.*\n)*{_HEX} +busybox +\"sleep 100000\" +.* ago +Up .* box\n$"),
    Row("container ls", "-a -f --format", "ps -a -f name=^xx$ --format '{{{{.Names}}}} {{{{.State}}}}'",
        "^xx created\n$", (_MADE,)),
    Row("container ls", "--all --filter --no-trunc -q",
        "ps --all --filter status=created --no-trunc -q", f"^{_LONG}\n$", (_MADE,)),
    Row("container ls", "-n --quiet", "container list -n 1 --quiet", f"^{_HEX}\n$", (_MADE,)),
    Row("container ls", "--last", "container ps --last 1 --format '{{{{.Names}}}}'", "^xx\n$", (_MADE,)),
    Row("container ls", "-l -s", "ps -l -s --format '{{{{.Size}}}}'", r"B \(virtual ", (_MADE,)),
    Row("container ls", "--latest --size", "ps --latest --size", "SIZE", (_MADE,)),
    Row("container pause", "", "container pause xx", "^xx\n$", (_sleeper("xx"),)),
    Row("container unpause", "", "unpause xx", "^xx\n$", (_sleeper("xx"), "pause xx")),
    Row("container port", "", "container port xx", r"^80/tcp -> 127\.0\.0\.1:\d+\n$",
        (_sleeper("xx", "-p 127.0.0.1::80"),)),
    Row("container prune", "--filter -f", "container prune -f --filter label=none",
        "^Total reclaimed space: 0B\n$"),
    Row("container prune", "--force", "container prune --force", f"^Deleted Containers:\n{_LONG}\n",
        (_MADE,)),
    Row("container rename", "", "container rename yy xx", "^$", ("create --name yy busybox",)),
    Row("container restart", "-s -t", "container restart -s KILL -t 0 xx", "^xx\n$", (_sleeper("xx"),)),
    Row("container restart", "--signal --timeout", "restart --signal KILL --timeout 0 xx", "^xx\n$",
        (_sleeper("xx"),)),
    Row("container rm", "-f -v", "container rm -f -v xx", "^xx\n$", (_sleeper("xx"),)),
    Row("container rm", "--force --volumes", "rm --force --volumes xx", "^xx\n$", (_sleeper("xx"),)),
    Row("container rm", "-l", "container remove -l xx/alias", "^xx/alias\n$",
        ("create --name xx --link {box}:alias busybox",)),
    Row("container rm", "--link", "rm --link xx/alias", "^xx/alias\n$",
        ("create --name xx --link {box}:alias busybox",)),
    Row("container run", "-d", "run -d --name xx busybox true", f"^{_LONG}\n$"),
    Row("container run", "--detach --detach-keys", "run --detach --detach-keys ctrl-x --name xx busybox "
        "true", f"^{_LONG}\n$"),
    Row("container run", "--sig-proxy", "run --sig-proxy=false --name xx busybox echo out", "^out\n$"),
    Row("container start", "-a --detach-keys", "container start -a --detach-keys ctrl-x xx",
        "^one\ntwo\n$", ("create --name xx busybox sh -c 'echo one; echo two'",)),
    Row("container start", "--attach -i", "start --attach -i xx", "^FROM=file\n",
        ("create -i --name xx busybox cat",), stdin="env"),
    Row("container start", "--interactive", "start --interactive xx", "^FROM=file\n",
        ("create -i --name xx busybox cat",), stdin="env"),
    Row("container start", "--checkpoint --checkpoint-dir",
        "start --checkpoint c --checkpoint-dir /tmp xx", "experimental", (_MADE,), 1),
    Row("container stats", "--no-stream --format", "container stats --no-stream "
        "--format '{{{{.Name}}}} {{{{.PIDs}}}}' {box}", "^box 1\n$"),
    Row("container stats", "-a --no-trunc", "stats -a --no-trunc --no-stream", _LONG),
    Row("container stats", "--all", "stats --all --no-stream", "CPU %"),
    Row("container stop", "-s -t", "container stop -s KILL -t 1 xx", "^xx\n$", (_sleeper("xx"),)),
    Row("container stop", "--signal --timeout", "stop --signal KILL --timeout 1 xx", "^xx\n$",
        (_sleeper("xx"),)),
    Row("container top", "", "container top {box}", "^UID +PID +PPID .*\nroot .*sleep 100000"),
    *(Row("container update", flags.split()[0], f"update {flags} xx", "^xx\n$", (_sleeper("xx"),))
      for flags in _UPDATES.split("|")),
    Row("container update", "--memory-swap", "update -m 64m --memory-swap 96m xx", "^xx\n$",
        (_sleeper("xx"),)),
    Row("container update", "--blkio-weight", "update --blkio-weight 200 xx", "^xx\n$",
        (_sleeper("xx"),)),
    Row("container update", "--cpu-rt-period --cpu-rt-runtime",
        "update --cpu-rt-period 1000000 --cpu-rt-runtime 0 xx", "xx", (_MADE,)),
    Row("container wait", "", "container wait xx", "^7\n$", ("run -d --name xx busybox sh -c 'exit 7'",)),
    # -- images ------------------------------------------------------------------------------
    *(Row("image build", flags.split()[0].split("=")[0], f"build {flags} {{tmp}}/context", _BUILT) for flags in (
        "--add-host a:10.0.0.1", "--build-arg WHO=me", "--cache-from busybox",
        "--cgroup-parent {cgroup}", "--compress", "--cpu-period 50000", "--cpu-quota 25000", "-c 99",
        "--cpu-shares 99", "--cpuset-cpus 0", "--cpuset-mems 0", "-f {tmp}/context/Other",
        "--file {tmp}/context/Other", "--force-rm", "--iidfile {tmp}/iid", "--label a=b", "-m 64m",
        "--memory 64m", "--memory-swap -1", "--network none", "--no-cache",
        "--platform linux/amd64", "--rm=false", "--security-opt seccomp=unconfined",
        "--shm-size 32m", "-t flags:b", "--tag flags:b", "--target first",
        "--ulimit nofile=100:200")),
    Row("image build", "-q", "image build -q {tmp}/context", f"^{_DIGEST}\n$"),
    Row("image build", "--quiet", "builder build --quiet {tmp}/context", f"^{_DIGEST}\n$"),
    Row("image build", "--pull", "build --pull {tmp}/scratch", _BUILT),
    Row("image build", "--squash", "build --squash {tmp}/context", "experimental", code=1),
    Row("image history", "--format -H -q", "image history -q busybox", f"^{_HEX}\n$"),
    Row("image history", "--human --no-trunc --quiet", "history --human --no-trunc --quiet busybox",
        f"^{_DIGEST}\n$"),
    Row("image history", "--format", "history --format '{{{{.Size}}}}' -H=false busybox", r"^\d+\n$"),
    Row("image history", "--platform", "history --platform linux/amd64 busybox", "IMAGE +CREATED"),
    Row("image import", "-c -m", "image import -c 'ENV A=b' -m why {tmp}/root.tar flags:i", _DIGEST),
    Row("image import", "--change --message --platform",
        "import --change 'ENV A=b' --message why --platform linux/amd64 {tmp}/root.tar flags:i",
        _DIGEST),
    Row("image inspect", "-f", "image inspect -f '{{{{.Os}}}}' busybox", "^linux\n$"),
    Row("image inspect", "--format --platform",
        "image inspect --platform linux/amd64 --format '{{{{.Architecture}}}}' busybox", "^amd64\n$"),
    Row("image load", "-i -q", "image load -i {tmp}/saved.tar -q", "^Loaded image: busybox:latest\n$",
        ("save -o {tmp}/saved.tar busybox",)),
    Row("image load", "--input --quiet --platform",
        "load --input {tmp}/saved.tar --quiet --platform linux/amd64", "^Loaded image: ",
        ("save -o {tmp}/saved.tar busybox",)),
    Row("image ls", "", "images busybox", "^REPOSITORY +TAG +IMAGE ID +CREATED +SIZE\n"
        f"busybox +latest +{_HEX} +.* ago +[0-9.]+MB\n$"),
    Row("image ls", "-a --digests", "image ls -a --digests busybox", "DIGEST"),
    Row("image ls", "--all -f --no-trunc -q", "image list --all -f reference=busybox --no-trunc -q",
        f"^{_DIGEST}\n$"),
    Row("image ls", "--filter --format", "images --filter reference=busybox --format "
        "'{{{{.Repository}}}}:{{{{.Tag}}}}'", "^busybox:latest\n$"),
    Row("image ls", "--quiet", "images --quiet busybox", f"^{_HEX}\n$"),
    Row("image ls", "--tree", "images --tree", "busybox:latest"),
    Row("image prune", "--filter -f", "image prune -f --filter label=none", "Total reclaimed space: 0B"),
    Row("image prune", "-a --force", "image prune -a --force --filter label=none", "Total"),
    Row("image prune", "--all", "image prune --all -f --filter label=none", "Total"),
    Row("image push", "-q", "image push -q {registry}/flags:1", "^{registry}/flags:1\n$",
        ("tag busybox {registry}/flags:1",)),
    Row("image push", "-a --quiet", "push -a --quiet {registry}/flags", "flags",
        ("tag busybox {registry}/flags:1",)),
    Row("image push", "--all-tags", "push --all-tags {registry}/flags", "1: digest: sha256:",
        ("tag busybox {registry}/flags:1",)),
    Row("image push", "--platform", "push --platform linux/amd64 {registry}/flags:1", "digest: sha256:",
        ("tag busybox {registry}/flags:1",)),
    Row("image pull", "-q", "image pull -q {registry}/flags:1", "^{registry}/flags:1\n$",
        ("tag busybox {registry}/flags:1", "push -q {registry}/flags:1")),
    Row("image pull", "-a --quiet", "pull -a --quiet {registry}/flags", "flags",
        ("tag busybox {registry}/flags:1", "push -q {registry}/flags:1")),
    Row("image pull", "--all-tags", "pull --all-tags {registry}/flags", "Status: ",
        ("tag busybox {registry}/flags:1", "push -q {registry}/flags:1")),
    Row("image pull", "--platform", "pull --platform linux/amd64 {registry}/flags:1", "Status: ",
        ("tag busybox {registry}/flags:1", "push -q {registry}/flags:1")),
    Row("image rm", "-f --no-prune", "image rm -f --no-prune flags:r", "^Untagged: flags:r\n$",
        ("tag busybox flags:r",)),
    Row("image rm", "--force", "rmi --force flags:r", "^Untagged: flags:r\n$", ("tag busybox flags:r",)),
    Row("image rm", "--platform", "image remove --platform linux/amd64 flags:p", "",
        ("import --platform linux/amd64 {tmp}/root.tar flags:p",)),
    Row("image save", "-o", "image save -o {tmp}/s.tar busybox", "^$"),
    Row("image save", "--output --platform", "save --output {tmp}/s.tar --platform linux/amd64 busybox",
        "^$"),
    Row("image tag", "", "image tag busybox flags:t", "^$"),
    Row("login", "-u -p", "login -u me -p secret {registry}", "Login Succeeded"),
    Row("login", "--username --password", "login --username me --password secret {registry}",
        "Login Succeeded"),
    Row("login", "--password-stdin", "login -u me --password-stdin {registry}", "Login Succeeded",
        stdin="password"),
    Row("logout", "", "logout {registry}", "Removing login credentials for {registry}",
        ("login -u me -p secret {registry}",)),
    Row("manifest create", "--insecure",
        "manifest create --insecure {registry}/list:1 {registry}/flags:1",
        "Created manifest list {registry}/list:1", _PUSHED),
    Row("manifest create", "-a", "manifest create --insecure -a {registry}/list:1 {registry}/flags:1",
        "Created", _LISTED),
    Row("manifest create", "--amend",
        "manifest create --insecure --amend {registry}/list:1 {registry}/flags:1", "Created",
        _LISTED),
    Row("manifest annotate", "--arch --os --os-features --os-version --variant",
        "manifest annotate --arch arm64 --os linux --os-features xx --os-version 1 --variant v8 "
        "{registry}/list:1 {registry}/flags:1", "^$", _LISTED),
    Row("manifest inspect", "--insecure", "manifest inspect --insecure {registry}/flags:1",
        '"schemaVersion": 2', _PUSHED),
    Row("manifest inspect", "-v", "manifest inspect -v --insecure {registry}/flags:1", "Descriptor",
        _PUSHED),
    Row("manifest inspect", "--verbose", "manifest inspect --verbose --insecure {registry}/flags:1",
        "Descriptor", _PUSHED),
    Row("manifest push", "--insecure -p", "manifest push --insecure -p {registry}/list:1", _DIGEST,
        _LISTED),
    Row("manifest push", "--purge", "manifest push --insecure --purge {registry}/list:1", _DIGEST,
        _LISTED),
    Row("manifest rm", "", "manifest rm {registry}/list:1", "", _LISTED),
    # -- networks ----------------------------------------------------------------------------
    Row("network connect", "--alias --ip --ip6 --link --link-local-ip --driver-opt --gw-priority",
        "network connect --alias a --ip 10.214.9.55 --ip6 fd00:214::55 --link {box}:b "
        "--link-local-ip 169.254.7.7 --gw-priority 5 "
        "--driver-opt com.docker.network.endpoint.ifname=web9 {net} xx", "^$", (_sleeper("xx"),)),
    *(Row("network create", flags.split()[0], f"network create {flags} flags-net", f"^{_LONG}\n$")
      for flags in (
        "--attachable", "--aux-address a=10.214.8.9 --subnet 10.214.8.0/24", "-d bridge",
        "--driver bridge", "--gateway 10.214.8.9 --subnet 10.214.8.0/24", "--internal",
        "--ip-range 10.214.8.128/25 --subnet 10.214.8.0/24", "--ipam-driver default", "--ipv4",
        "--ipv6", "--label a=b", "-o com.docker.network.bridge.enable_icc=false",
        "--opt com.docker.network.driver.mtu=1400", "--scope local", "--subnet 10.214.8.0/24",
        "--config-only --subnet 10.214.8.0/24")),
    Row("network create", "--config-from", "network create --config-from flags-from flags-net",
        f"^{_LONG}\n$", ("network create --config-only --subnet 10.214.8.0/24 flags-from",)),
    Row("network create", "--ingress", "network create --ingress flags-net", _SWARM, code=1),
    Row("network create", "--ipam-opt", "network create --ipam-opt a=b flags-net",
        "has no option 'a'", code=1),
    Row("network disconnect", "-f", "network disconnect -f {net} xx", "^$",
        ("create --name xx --network {net} busybox",)),
    Row("network disconnect", "--force", "network disconnect --force {net} xx", "^$",
        (_sleeper("xx", "--network {net}"),)),
    Row("network inspect", "-f", "network inspect -f '{{{{.Driver}}}}' {net}", "^bridge\n$"),
    Row("network inspect", "--format -v", "network inspect -v --format '{{{{.Scope}}}}' {net}",
        "^local\n$"),
    Row("network inspect", "--verbose", "network inspect --verbose {net}", '"Name": "net"'),
    Row("network ls", "", "network ls", f"^NETWORK ID +NAME +DRIVER +SCOPE\n{_HEX} +bridge +bridge +local"),
    Row("network ls", "-f --no-trunc -q", "network ls -f name=^net$ --no-trunc -q", f"^{_LONG}\n$"),
    Row("network ls", "--filter --format", "network list --filter driver=null --format '{{{{.Name}}}}'",
        "^none\n$"),
    Row("network ls", "--quiet", "network ls --quiet", f"^({_HEX}\n)+$"),
    Row("network prune", "--filter -f", "network prune -f --filter label=none", "^$"),
    Row("network prune", "--force", "network prune --force --filter label=a=b",
        "^Deleted Networks:\nflags-net\n", ("network create --label a=b flags-net",)),
    Row("network rm", "-f", "network rm -f flags-net", "flags-net", ("network create flags-net",)),
    Row("network rm", "--force", "network remove --force no-such-net", ""),
    # -- the system ---------------------------------------------------------------------------
    Row("search", "-f --format --limit --no-trunc",
        "search -f is-official=true --format '{{{{.Name}}}}' --limit 3 --no-trunc term",
        "registry", code=1),
    Row("search", "--filter", "search --filter stars=3 term", "registry", code=1),
    Row("system df", "", "system df", r"^TYPE +TOTAL +ACTIVE +SIZE +RECLAIMABLE\nImages +\d+ +1 "),
    Row("system df", "--format", "system df --format '{{{{.Type}}}}'", "^Images\nContainers\nLocal "
        "Volumes\nBuild Cache\n$"),
    Row("system df", "-v", "system df -v", "Images space usage:"),
    Row("system df", "--verbose", "system df --verbose", "Local Volumes space usage:"),
    Row("system events", "-f --since --until", "system events -f event=create -f container=seen "
        "--since 10m --until -1s", "container create", ("create --name seen busybox true",)),
    Row("system events", "--filter --format", "events --filter container=heard --since 10m "
        "--until -1s --format '{{{{.Action}}}}'", "create\n",
        ("run --name heard busybox true", "rm heard")),
    Row("system info", "", "system info", "Server Version: "),
    Row("system info", "-f", "info -f '{{{{.OSType}}}}'", "^linux\n$"),
    Row("system info", "--format", "info --format '{{{{json .Driver}}}}'", '^"'),
    Row("system prune", "--filter -f", "system prune -f --filter label=none", "Total"),
    Row("system prune", "-a --force --volumes",
        "system prune -a --force --volumes --filter label=none", "Total"),
    Row("system prune", "--all", "system prune --all -f --filter label=none", "Total"),
    Row("version", "-f", "version -f '{{{{.Server.APIVersion}}}}'", r"^1\.\d+\n$"),
    Row("version", "--format", "version --format '{{{{.Server.Os}}}}'", "^linux\n$"),
    Row("version", "", "version", "Server: sampan"),
    # -- volumes -------------------------------------------------------------------------------
    Row("volume create", "-d --label -o", "volume create -d local --label a=b -o type=tmpfs "
        "-o device=tmpfs flags-v", "^flags-v\n$"),
    Row("volume create", "--driver --opt", "volume create --driver local --opt type=tmpfs "
        "--opt device=tmpfs flags-v", "^flags-v\n$"),
    *(Row("volume create", flags.split()[0], f"volume create {flags} flags-v", _SWARM, code=1)
      for flags in (
        "--availability active", "--group g", "--limit-bytes 9", "--required-bytes 9",
        "--scope multi", "--secret a=b --type mount", "--sharing none",
        "--topology-preferred a=b --type mount", "--topology-required a=b --type mount",
        "--type mount")),
    Row("volume inspect", "-f", "volume inspect -f '{{{{.Driver}}}}' flags-v", "^local\n$",
        ("volume create flags-v",)),
    Row("volume inspect", "--format", "volume inspect --format '{{{{.Name}}}}' flags-v", "^flags-v\n$",
        ("volume create flags-v",)),
    Row("volume ls", "", "volume ls", "^DRIVER +VOLUME NAME\nlocal +"),
    Row("volume ls", "-f -q", "volume ls -f name=flags-v -q", "^flags-v\n$", ("volume create flags-v",)),
    Row("volume ls", "--filter --format --quiet",
        "volume list --filter dangling=true --format '{{{{.Name}}}}'", "flags-v\n",
        ("volume create flags-v",)),
    Row("volume ls", "--cluster", "volume ls --cluster", ""),
    Row("volume ls", "--quiet", "volume ls --quiet", r"^([\w-]+\n)+$"),
    Row("volume prune", "-a --filter -f", "volume prune -a -f --filter label=a=b",
        "^Deleted Volumes:\nflags-v\n", ("volume create --label a=b flags-v",)),
    Row("volume prune", "--all --force", "volume prune --all --force --filter label=a=b", "Total"),
    Row("volume rm", "-f", "volume rm -f flags-v", "^flags-v\n$", ("volume create flags-v",)),
    Row("volume rm", "--force", "volume remove --force none-such", ""),
    Row("volume update", "--availability", "volume update --availability drain flags-v", "cluster volumes",
        ("volume create flags-v",), 1),
]  # fmt: skip

_OWN_FACTS = "names what is the engine's own: versions, drivers, sizes in bytes"
_OWN_REFUSAL = "refused in words that name what is missing"
_DOCKER_FORMAT = "images are pushed as OCI manifests, not as Docker's"

DIFFERS: dict[str, str] = {
    **dict.fromkeys(
        (
            "container inspect --size --format '{{{{.SizeRootFs}}}}' xx",
            "container inspect -s xx",
            "history --format '{{{{.Size}}}}' -H=false busybox",
            "system info",
            "info --format '{{{{json .Driver}}}}'",
            "version",
            "version -f '{{{{.Server.APIVersion}}}}'",
        ),
        _OWN_FACTS,
    ),
    **dict.fromkeys(
        (
            *(row.line for row in ROWS if row.prints == _SWARM),
            "search -f is-official=true --format '{{{{.Name}}}}' --limit 3 --no-trunc term",
            "search --filter stars=3 term",
        ),
        _OWN_REFUSAL,
    ),
    **dict.fromkeys(
        (
            "manifest inspect --insecure {registry}/flags:1",
            "manifest inspect -v --insecure {registry}/flags:1",
            "manifest inspect --verbose --insecure {registry}/flags:1",
        ),
        _DOCKER_FORMAT,
    ),
    **dict.fromkeys(
        (
            f"{command} --name it {flags} busybox true"
            for command in ("create", "run")
            for flags in ("--blkio-weight 300", f"--blkio-weight-device {DISK}:200")
        ),
        "what this kernel's scheduler does not know is refused at the start, not left out",
    ),
    "update --blkio-weight 200 xx": "the same at an update",
    **dict.fromkeys(
        (f"{command} --name it --runtime sampan busybox true" for command in ("create", "run")),
        "Docker's engine has no runtime of that name",
    ),
    **dict.fromkeys(
        (
            "container stats --no-stream --format '{{{{.Name}}}} {{{{.PIDs}}}}' {box}",
            "stats -a --no-trunc --no-stream",
            "stats --all --no-stream",
        ),
        "Docker's engine counts no processes on this machine's control groups",
    ),
    "container top {box}": "numbers and times of processes",
    "build --label a=b {tmp}/context": "labels of the command line are no step of their own",
    "build --security-opt seccomp=unconfined {tmp}/context": "Docker's engine refuses it",
    "pull --all-tags {registry}/flags": "the last line names the tag",
    "network create --ipv6 flags-net": "subnets of IPv6 are chosen, as in Docker 27",
    "network create --ipam-opt a=b flags-net": "options that nobody reads are refused",
    "network inspect --verbose {net}": "gateways are shown, as in Docker 28",
}
"""Command lines whose output differs from that of Docker's engine on purpose, and why."""

NEWER = frozenset(
    (
        "--gw-priority",
        "--ipv4",
        "--no-pause",
        "--platform",
        "--timeout",
        "--tree",
        "--use-api-socket",
    )
)
"""Flags of commands that the CLI of the golden files does not know yet (or not everywhere)."""
