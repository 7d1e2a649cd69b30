"""What commands ask of the daemon and print, byte for byte."""

import io
import json
import re
import subprocess
import sys
import tarfile
import time

import pytest

from sampan.cli.commands import ALIASES, COMMANDS, GROUPS
from sampan.cli.main import command_of


def container(**changes):
    return {
        "Id": "e5d96b86812efff8015b5e13770f38ea185c4a973bb1e609f6b1393024b4bf44",
        "Names": ["/web"],
        "Image": "busybox",
        "ImageID": "sha256:3aae4528a1eee8b8f8f12634cd42027c737ea56e485e194ef9df93f9d065ec3c",
        "Command": "sh -c 'sleep 10000; echo over'",
        "Created": int(time.time()) - 130,
        "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
        "SizeRw": 2048,
        "SizeRootFs": 1982286,
        "Labels": {"b": "2", "a": "1"},
        "State": "running",
        "Status": "Up 2 minutes",
        "NetworkSettings": {"Networks": {"bridge": {}}},
        "Mounts": [{"Type": "volume", "Name": "data", "Driver": "local"}],
        **changes,
    }


def test_ps(cli, fake):
    fake.answers["GET /containers/json"] = (200, [container()])
    assert cli("ps") == (
        0,
        "CONTAINER ID   IMAGE     COMMAND                  CREATED         STATUS         PORTS"
        "                  NAMES\n"
        'e5d96b86812e   busybox   "sh -c \'sleep 10000;…"   2 minutes ago   Up 2 minutes   '
        "0.0.0.0:8080->80/tcp   web\n",
        "",
    )
    assert fake.requests[-1][1] == "/containers/json"
    assert cli("ps", "-aq", "--no-trunc")[1] == container()["Id"] + "\n"
    assert cli("container", "ls", "-n", "3", "-f", "name=we", "-f", "name=x")[0] == 0
    assert fake.requests[-1][1] == (
        "/containers/json?all=1&limit=3&filters=%7B%22name%22:%7B%22we%22:true%2C%22x%22:true%7D%7D"
    )


def test_ps_formats(cli, fake):
    fake.answers["GET /containers/json"] = (200, [container()])
    assert cli("ps", "--format", '{{.Names}} {{.Size}} {{.Labels}} {{.Label "a"}}')[1] == (
        "web 2.05kB (virtual 1.98MB) a=1,b=2 1\n"
    )
    assert fake.requests[-1][1] == "/containers/json?size=1"
    assert cli("ps", "--format", "table {{.ID}}\\t{{upper .Names}}")[1] == (
        "CONTAINER ID   NAMES\ne5d96b86812e   WEB\n"
    )
    found = json.loads(cli("ps", "--format", "json")[1])
    assert list(found) == sorted(found)
    assert found["Ports"] == "0.0.0.0:8080->80/tcp" and found["LocalVolumes"] == "1"
    code, _, said = cli("ps", "--format", "{{.Nope}}")
    assert code == 1
    assert said == (
        'failed to execute template: template: :1:2: executing "" at <.Nope>: can\'t evaluate '
        "field Nope in type *formatter.ContainerContext\n"
    )


def test_closed_streams(fake):
    fake.answers["GET /containers/json"] = (200, [container()])
    script = "from sampan.cli.main import entry; entry()"
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", script, "ps"],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_images(cli, fake):
    fake.answers["GET /images/json"] = (
        200,
        [
            {
                "Id": "sha256:" + "ab" * 32,
                "RepoTags": ["h:5000/x:1", "h:5000/x:2"],
                "RepoDigests": ["h:5000/x@sha256:dd"],
                "Created": int(time.time()) - 3 * 86400,
                "Size": 116229974,
            },
            {"Id": "sha256:" + "cd" * 32, "RepoTags": None, "Created": 1, "Size": 5},
        ],
    )
    assert cli("images")[1].splitlines()[:3] == [
        "REPOSITORY   TAG       IMAGE ID       CREATED        SIZE",
        "h:5000/x     1         abababababab   3 days ago     116MB",
        "h:5000/x     2         abababababab   3 days ago     116MB",
    ]
    assert "h:5000/x     1         sha256:dd   abababababab" in cli("images", "--digests")[1]
    assert cli("images", "-q")[1].split() == ["ab" * 6, "ab" * 6, "cd" * 6]
    cli("images", "x:1")
    assert "reference" in fake.requests[-1][1]


def test_what_is_refused(cli, fake):
    assert cli("run", "--bogus", "x") == (
        125,
        "",
        "unknown flag: --bogus\n\nUsage:  sampan run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n"
        "Run 'sampan run --help' for more information\n",
    )
    assert cli("rm") == (
        1,
        "",
        "sampan: 'sampan rm' requires at least 1 argument\n\n"
        "Usage:  sampan rm [OPTIONS] CONTAINER [CONTAINER...]\n\n"
        "See 'sampan rm --help' for more information\n",
    )
    assert cli("ps", "x")[2].startswith("sampan: 'sampan ps' accepts no arguments\n")
    assert cli("nope") == (
        1,
        "",
        "sampan: unknown command: sampan nope\n\nRun 'sampan --help' for more information\n",
    )
    assert cli("container", "nope")[2] == (
        "sampan: unknown command: sampan container nope\n\nUsage:  sampan container\n\n"
        "Run 'sampan container --help' for more information\n"
    )
    assert cli("--nope")[0] == 125
    assert cli("image", "--nope")[0] == 125


def test_the_daemons_refusals(cli, fake):
    assert cli("start", "x") == (
        1,
        "",
        "Error response from daemon: No such thing: POST /containers/x/start\n"
        "Error: failed to start containers: x\n",
    )
    fake.answers["POST /containers/y/start"] = (204, "")
    assert cli("start", "x", "y")[1:] == (
        "y\n",
        "Error response from daemon: No such thing: POST /containers/x/start\n"
        "Error: failed to start containers: x\n",
    )
    fake.answers["POST /containers/create"] = (409, {"message": "Conflict. In use."})
    assert cli("run", "x") == (
        125,
        "",
        "sampan: Error response from daemon: Conflict. In use.\n\n"
        "Run 'sampan run --help' for more information\n",
    )


def test_nothing_listens(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMPAN_HOST", f"unix://{tmp_path}/none")
    code, _, said = cli("ps")
    assert code == 1
    assert said == (
        f"Cannot connect to the sampan daemon at unix://{tmp_path}/none. "
        "Is the sampan daemon running?\n"
    )


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ('exec: "/x": no such file or directory', 127),
        ('exec: "/etc": permission denied', 126),
        ('exec: "/etc": is a directory', 126),
        ("port is already allocated", 125),
    ],
)
def test_start_failures_have_their_exit_code(cli, fake, message, code):
    fake.answers["POST /containers/create"] = (201, {"Id": "c1", "Warnings": ["Careful."]})
    fake.answers["POST /containers/c1/start"] = (500, {"message": message})
    found, out, said = cli("run", "-d", "x")
    assert (found, out) == (code, "")
    assert said.startswith(f"WARNING: Careful.\nsampan: Error response from daemon: {message}\n")


def test_a_cid_file(cli, fake, tmp_path):
    path = tmp_path / "cid"
    fake.answers["POST /containers/create"] = (201, {"Id": "c1", "Warnings": None})
    fake.answers["POST /containers/c1/start"] = (204, "")
    assert cli("run", "-d", "--cidfile", str(path), "x") == (0, "c1\n", "")
    assert path.read_text() == "c1"
    code, _, said = cli("create", "--cidfile", str(path), "x")
    assert code == 125 and "container ID file found" in said
    path.unlink()
    fake.answers["POST /containers/create"] = (400, {"message": "no"})
    assert cli("create", "--cidfile", str(path), "x")[0] == 1
    assert not path.exists()


def test_a_missing_image_is_pulled(cli, fake):
    fake.answers["POST /containers/create"] = (404, {"message": "No such image: x:latest"})
    fake.answers["POST /images/create"] = (
        200,
        '{"status":"Pulling from library/x","id":"latest"}\n'
        '{"errorDetail":{"message":"broken"},"error":"broken"}\n',
    )
    assert cli("create", "x") == (
        1,
        "",
        "Unable to find image 'x:latest' locally\nlatest: Pulling from library/x\nbroken\n",
    )
    assert cli("create", "--pull", "never", "x")[2].startswith(
        "Error response from daemon: No such"
    )


def test_inspect(cli, fake):
    fake.answers["GET /containers/a/json"] = (200, {"Id": "1", "State": {"Running": True}, "L": []})
    fake.answers["GET /images/b/json"] = (200, {"Id": "2"})
    assert cli("inspect", "a", "b", "c") == (
        1,
        '[\n    {\n        "Id": "1",\n        "State": {\n            "Running": true\n        },'
        '\n        "L": []\n    },\n    {\n        "Id": "2"\n    }\n]\n',
        "Error: No such object: c\n",
    )
    assert cli("inspect", "-f", "{{.ID}} {{.State.Running}}", "a")[1] == "1 true\n"
    assert cli("inspect", "-f", "{{.Nope}}", "a") == (
        1,
        "\n",
        'template parsing error: template: :1:2: executing "" at <.Nope>: map has no entry for '
        'key "Nope"\n',
    )
    fake.answers["GET /containers/s/json"] = (
        200,
        {
            "Mounts": [{"Type": "volume", "Name": "v1", "RW": True}],
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": None},
            "State": {"Running": True},
            "HostConfig": {
                "Binds": None,
                "Sysctls": None,
                "Init": None,
                "LogConfig": {"Type": "local", "Config": {"a": "1"}},
            },
        },
    )
    for form, shown in (
        ("{{if .State.Health}}x{{else}}none{{end}} {{.State.Health}}", "none <nil>"),
        ("{{json .State}}", '{"Running":true}'),
        ("{{.Mounts}}", "[{volume v1 true}]"),
        ("{{.Ports}}", "map[80/tcp:[{0.0.0.0 8080}] 81/tcp:[]]"),
        ("{{.HostConfig}}", "{[] map[] <nil> {local map[a:1]}}"),
        ("{{with .HostConfig}}{{.Binds}} {{.Sysctls}} {{.Init}}{{end}}", "[] map[] <nil>"),
        ("{{json .HostConfig.Binds}}", "null"),
        ("{{json .Mounts}}", '[{"Type":"volume","Name":"v1","RW":true}]'),
        ("{{range .Mounts}}{{.}}{{end}}", "{volume v1 true}"),
    ):
        assert cli("inspect", "-f", form, "s") == (0, f"{shown}\n", ""), form
    assert cli("inspect", "-f", "{{", "a") == (
        64,
        "",
        "template parsing error: template: :1: unclosed action\n",
    )


def test_a_field_that_there_is_not(cli, fake):
    """A template that cannot be read is one thing, one that does not fit another."""
    fake.answers["GET /version"] = (200, {"ApiVersion": "1.51"})
    assert cli("version", "-f", "{{")[0] == 64
    code, _, complaint = cli("version", "-f", "{{.Bogus}}")
    assert code == 1
    assert complaint.startswith("template: ")


def test_a_platform_that_there_is_not(cli, fake):
    fake.answers["POST /containers/create"] = (400, {"message": "asked"})
    for platform, asked in (("bogus", False), ("linux", True), ("arm64", True), ("a/b", True)):
        code, _, complaint = cli("run", "--platform", platform, "busybox")
        assert code == 125
        assert ("asked" in complaint) is asked, complaint
        assert ("unknown operating system" in complaint) is not asked


def test_what_is_missing_for_a_container(cli, fake):
    message = 'error gathering device information while adding custom device "/dev/x": no such file'
    for text, code in ((f"{message} or directory", 127), ("Minimum memory limit", 125)):
        fake.answers["POST /containers/create"] = (400, {"message": text})
        assert cli("run", "busybox")[0] == code


def test_removal_reports_each(cli, fake):
    fake.answers["DELETE /containers/a"] = (204, "")
    fake.answers["DELETE /containers/b"] = (409, {"message": "it runs"})
    fake.answers["DELETE /containers/c"] = (204, "")
    assert cli("rm", "-fv", "a", "b", "/c") == (
        1,
        "a\n/c\n",
        "Error response from daemon: it runs\n",
    )
    assert ("DELETE", "/containers/a?force=1&v=1", b"") in fake.requests
    assert cli("rm", "-f", "a", "gone") == (
        0,
        "a\n",
        "Error response from daemon: No such thing: DELETE /containers/gone\n",
    )
    assert cli("rm", "a", "gone")[0] == 1


def test_pull_prints_plain_lines(cli, fake):
    fake.answers["POST /images/create"] = (
        200,
        '{"status":"Pulling from x","id":"latest"}\r\n'
        '{"status":"Downloading","id":"aa","progressDetail":{"current":1,"total":2}}\r\n'
        '{"status":"Pull complete","id":"aa","progressDetail":{}}\r\n'
        '{"status":"Status: Downloaded newer image for x:latest"}\r\n',
    )
    assert cli("pull", "x")[1] == (
        "Using default tag: latest\nlatest: Pulling from x\naa: Pull complete\n"
        "Status: Downloaded newer image for x:latest\ndocker.io/library/x:latest\n"
    )
    assert cli("pull", "-q", "h:5000/x:1")[1] == "h:5000/x:1\n"
    assert fake.requests[-1][1] == "/images/create?fromImage=h:5000/x&tag=1"


def test_build(cli, fake, tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM x\n")
    fake.answers["POST /build"] = (
        200,
        '{"stream":"Step 1/1 : FROM x\\n"}\n{"aux":{"ID":"sha256:aa"}}\n'
        '{"stream":"Successfully built aa\\n"}\n',
    )
    iid = tmp_path / "iid"
    code, out, _ = cli(
        "build", "-t", "a:1", "--build-arg", "X=1", "--iidfile", str(iid), str(folder)
    )
    assert code == 0
    assert re.fullmatch(
        r"Sending build context to the daemon  .*B\nStep 1/1 : FROM x\nSuccessfully built aa\n", out
    )
    assert iid.read_text() == "sha256:aa"
    _, target, body = fake.requests[-1]
    assert "t=a:1" in target and "buildargs=%7B%22X%22:%221%22%7D" in target
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.getnames() == ["Dockerfile"]
    assert cli("build", "-q", str(folder))[1] == "sha256:aa\n"
    fake.answers["POST /build"] = (
        200,
        '{"errorDetail":{"code":3,"message":"returned a non-zero code: 3"},"error":"x"}\n',
    )
    assert cli("build", str(folder))[::2] == (3, "returned a non-zero code: 3\n")
    assert cli("build", str(tmp_path / "none"))[0] == 1


def test_cp_refuses_an_escape(cli, fake, tmp_path):
    import base64

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("d/out")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(link)
        evil = tarfile.TarInfo("d/out/tmp/evil-" + tmp_path.name)
        evil.size = 1
        archive.addfile(evil, io.BytesIO(b"x"))
    stat = base64.b64encode(
        json.dumps({"name": "d", "size": 0, "mode": 1 << 31 | 0o755, "linkTarget": ""}).encode()
    ).decode()
    from http.server import BaseHTTPRequestHandler

    original = BaseHTTPRequestHandler.end_headers

    def with_stat(handler):
        handler.send_header("X-Docker-Container-Path-Stat", stat)
        original(handler)

    BaseHTTPRequestHandler.end_headers = with_stat
    try:
        fake.answers["GET /containers/c/archive"] = (200, buffer.getvalue().decode("latin-1"))
        code, _, said = cli("cp", "c:/d", str(tmp_path / "to"))
    finally:
        BaseHTTPRequestHandler.end_headers = original
    assert code == 1 and "refusing to unpack" in said
    assert not list(tmp_path.parent.glob("**/evil-*"))


def test_every_command_has_help(cli):
    for key in COMMANDS:
        if key == "__complete":
            continue
        command = command_of(key)
        assert command.short.startswith(COMMANDS[key][1]), key
        if key == "daemon":
            continue
        code, out, said = cli(*key.split(), "--help")
        assert (code, said) == (0, ""), key
        assert out.startswith(f"Usage:  sampan {key}"), key
        for flag in command.flags:
            assert f"--{flag.name}" in out
    for group in GROUPS:
        assert cli(group)[1].startswith(f"Usage:  sampan {group} COMMAND\n")
    assert cli("--help")[1].startswith("Usage:  sampan [OPTIONS] COMMAND\n")
    assert set(ALIASES.values()) <= set(COMMANDS)


def test_login_keeps_credentials_to_the_owner(cli, fake, tmp_path, monkeypatch):
    fake.answers["POST /auth"] = (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    code, out, _ = cli("login", "-u", "me", "--password-stdin", "h:5000")
    assert (code, out) == (0, "Login Succeeded\n")
    assert fake.sent("POST", "/auth") == {
        "username": "me",
        "password": "secret",
        "serveraddress": "h:5000",
    }
    file = tmp_path / "config" / "config.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text()) == {"auths": {"h:5000": {"auth": "bWU6c2VjcmV0"}}}
    fake.answers["POST /images/create"] = (200, '{"status":"ok"}\n')
    assert cli("pull", "h:5000/x")[0] == 0
    assert cli("logout", "h:5000")[1] == "Removing login credentials for h:5000\n"
    assert json.loads(file.read_text()) == {"auths": {}}
    assert cli("logout", "h:5000")[1] == "Not logged in to h:5000\n"


def test_contexts(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("SAMPAN_HOST")
    assert cli("context", "create", "far", "--docker", "host=tcp://h:1")[0] == 0
    assert cli("context", "use", "far")[:2] == (0, "far\n")
    assert cli("context", "show")[1] == "far\n"
    assert "far *     " in cli("context", "ls")[1]
    assert json.loads(cli("context", "inspect", "far")[1])[0]["Endpoints"]["docker"]["Host"] == (
        "tcp://h:1"
    )
    assert cli("context", "rm", "far")[0] == 1
    assert cli("context", "rm", "-f", "far")[:2] == (0, "far\n")
    assert cli("context", "show")[1] == "default\n"
