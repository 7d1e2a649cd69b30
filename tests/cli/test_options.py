"""Ports, mounts, networks, devices and limits as the API has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli import creation, mounts, netopts, ports, resources, runflags, values
from sampan.cli.failure import Failure, UsageFailure
from sampan.cli.flags import parse


def options(*words):
    return parse(runflags.CREATE + runflags.RUN_ONLY, words, interspersed=False)[0]


def body(*words, detach=False):
    found, arguments = parse(runflags.CREATE + runflags.RUN_ONLY, words, interspersed=False)
    return creation.body(found, arguments, detach=detach, proxies={})


def binding(port="", ip=""):
    return {"HostIp": ip, "HostPort": port}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80", {"80/tcp": [binding()]}),
        ("8080:80", {"80/tcp": [binding("8080")]}),
        ("8080:80/udp", {"80/udp": [binding("8080")]}),
        ("127.0.0.1:8080:80", {"80/tcp": [binding("8080", "127.0.0.1")]}),
        ("127.0.0.1::80", {"80/tcp": [binding("", "127.0.0.1")]}),
        ("[::1]:8080:80", {"80/tcp": [binding("8080", "::1")]}),
        ("8000-8001:80-81", {"80/tcp": [binding("8000")], "81/tcp": [binding("8001")]}),
        ("8000-8010:80", {"80/tcp": [binding("8000-8010")]}),
        ("target=80,published=8080,protocol=udp", {"80/udp": [binding("8080")]}),
    ],
)
def test_published_ports(text, found):
    assert ports.published([text]) == found


@pytest.mark.parametrize(
    "text",
    ["", "a", "1:b", "c:1", "80/x", "1.2.3:1:2", "8000-8001:80-85", "81-80", "70000", "1:2:3:4",
     "[::1:80", "published=80", "target=80,x=1"],
)  # fmt: skip
def test_bad_ports(text):
    with pytest.raises(Failure) as caught:
        ports.published([text])
    assert caught.value.code == 125


@given(st.text(alphabet="0123456789:-/.[]tcpud=,", max_size=20))
def test_any_port_text_is_understood_or_refused(text):
    try:
        ports.published([text])
    except Failure:
        pass


def test_exposed_ports():
    assert ports.exposed(["80", "53/udp", "7000-7001"]) == [
        "80/tcp", "53/udp", "7000/tcp", "7001/tcp",
    ]  # fmt: skip
    with pytest.raises(Failure):
        ports.exposed(["80:80"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "type=bind,src=/a,dst=/b,readonly",
            {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True},
        ),
        ("source=v,target=/b", {"Type": "volume", "Source": "v", "Target": "/b"}),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
            {
                "Type": "tmpfs",
                "Target": "/t",
                "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770},
            },
        ),
        (
            '"source=a,b",target=/b',
            {"Type": "volume", "Source": "a,b", "Target": "/b"},
        ),
        (
            "target=/b,volume-opt=o=x,volume-label=k=v,volume-nocopy",
            {
                "Type": "volume",
                "Target": "/b",
                "VolumeOptions": {
                    "DriverConfig": {"Options": {"o": "x"}},
                    "Labels": {"k": "v"},
                    "NoCopy": True,
                },
            },
        ),
    ],
)
def test_mounts(text, found):
    assert mounts.mount(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("type=bind,src=/a", "target is required"),
        ("x=y,target=/a", "unknown option 'x' in 'x=y'"),
        ("type=nope,target=/a", "unknown mount type 'nope'"),
        ("type=bind,target=/a,tmpfs-size=1", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
        ("target=/a,readonly=maybe", "invalid value for 'readonly': maybe"),
    ],
)
def test_bad_mounts(text, reason):
    with pytest.raises(Failure) as caught:
        mounts.mount(text)
    assert caught.value.message == f'invalid argument "{text}" for "--mount" flag: {reason}'


def test_volumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mounts.volumes(["/a", "n:/b:ro", "./c:/c", "/d:/d"]) == (
        ["n:/b:ro", f"{tmp_path}/c:/c", "/d:/d"],
        ["/a"],
    )


def test_networks():
    assert netopts.networks(options()) == ("default", {})
    assert netopts.networks(options("--network", "none")) == ("none", {})
    assert netopts.networks(options("--network", "n", "--ip", "1.2.3.4")) == (
        "n",
        {"n": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}}},
    )
    mode, endpoints = netopts.networks(
        options("--network", "name=x,alias=a,driver-opt=k=v", "--network", "y")
    )
    assert mode == "x"
    assert endpoints == {"x": {"Aliases": ["a"], "DriverOpts": {"k": "v"}}, "y": {}}
    with pytest.raises(Failure):
        netopts.networks(options("--network", "a", "--network", "host"))


def test_limits():
    found = resources.limits(
        options(
            "-m", "64m", "--cpus", "1.5", "--ulimit", "nofile=10:20", "--device", "/dev/null:r",
            "--gpus", "all", "--device-read-bps", "/dev/null:1mb",
        )
    )  # fmt: skip
    assert found == {
        "Memory": 64 << 20,
        "NanoCpus": 1_500_000_000,
        "Ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}],
        "Devices": [
            {
                "PathOnHost": "/dev/null",
                "PathInContainer": "/dev/null",
                "CgroupPermissions": "r",
            }
        ],
        "DeviceRequests": [
            {
                "Driver": "",
                "Count": -1,
                "DeviceIDs": None,
                "Options": {},
                "Capabilities": [["gpu"]],
            }
        ],
        "BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1 << 20}],
    }


@pytest.mark.parametrize(
    "words",
    [
        ("--ulimit", "nope=1"),
        ("--ulimit", "nofile=3:1"),
        ("--device", "/dev/a:b:c:d"),
        ("--device", "/dev/a:/b:q"),
        ("--blkio-weight-device", "x:1"),
        ("--gpus", "x=y"),
    ],
)
def test_bad_limits(words):
    with pytest.raises(Failure):
        resources.limits(options(*words))


def test_a_containers_body():
    found = body(
        "-it", "-e", "A=1", "-l", "k=v", "--entrypoint", "sh", "-p", "1:2", "img", "a", "-b"
    )
    assert found["Image"] == "img" and found["Cmd"] == ["a", "-b"] and found["Entrypoint"] == ["sh"]
    assert found["Env"] == ["A=1"] and found["Labels"] == {"k": "v"}
    assert found["AttachStdin"] and found["StdinOnce"] and found["OpenStdin"] and found["Tty"]
    assert found["ExposedPorts"] == {"2/tcp": {}}
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    detached = body("-i", "img", detach=True)
    assert not detached["AttachStdin"] and not detached["AttachStdout"] and detached["OpenStdin"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rm", "--restart", "always", "i"), "cannot specify both --restart and --rm"),
        (("--no-healthcheck", "--health-cmd", "x", "i"), "conflicts with --health-"),
        (("--restart", "on-failure:x", "i"), "must be an integer"),
        (("--add-host", "x", "i"), "bad format for add-host"),
        (("--add-host", "x:y", "i"), "invalid IP address"),
        (("--security-opt", "x", "i"), 'invalid --security-opt: "x"'),
        (("-a", "x", "i"), "valid streams are"),
    ],
)
def test_conflicts_and_mistakes(words, message):
    with pytest.raises(Failure) as caught:
        body(*words)
    assert message in caught.value.message and caught.value.code == 125


def test_variables_from_files_and_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "env"
    file.write_text("\ufeff# comment\nA=1\n\nHOME_OF\n  B=two words\r\n")
    monkeypatch.setenv("HOME_OF", "x")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert values.variables([str(file)], ["C=3", "NOT_SET", "HOME_OF"]) == [
        "A=1", "HOME_OF=x", "B=two words", "C=3", "HOME_OF=x",
    ]  # fmt: skip
    file.write_text("A B=1\n")
    with pytest.raises(Failure, match="contains whitespaces"):
        values.variables([str(file)], [])
    with pytest.raises(Failure, match="no such file"):
        values.variables([str(tmp_path / "none")], [])


@given(st.lists(st.text(alphabet='ab",\n '), min_size=1))
def test_csv_reads_what_the_standard_library_writes(fields):
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(fields)
    assert values.csv(out.getvalue()) == fields


def test_kernel_memory_is_taken_and_has_no_effect(capsys):
    """As by Docker's CLI, which leaves it out of the request; but not in silence."""
    config = body("--kernel-memory", "50m", "busybox")
    assert "KernelMemory" not in config["HostConfig"]
    assert "no effect" in capsys.readouterr().err
    with pytest.raises(UsageFailure, match="invalid size"):
        options("--kernel-memory", "x", "busybox")


def test_isolation_is_for_the_engine_to_judge():
    assert body("--isolation", "default", "busybox")["HostConfig"]["Isolation"] == "default"
