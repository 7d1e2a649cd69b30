"""Completion: what a word may become, and that the shells offer it."""

import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\([AB0]|\x1b\][^\x07]*\x07|\r")


def one(name, state, image="busybox"):
    return {"Names": [f"/{name}"], "State": state, "Status": state, "Image": image}


@pytest.fixture
def stocked(fake):
    """A daemon that has something of everything."""
    containers = [one("web", "running"), one("waits", "exited"), one("worker", "paused")]
    fake.answers["GET /containers/json"] = (200, containers)
    images = [
        {"Id": "sha256:" + "a" * 64, "RepoTags": ["debian:bookworm", "10.0.0.1:5000/tool:1"]},
        {"Id": "sha256:" + "b" * 64, "RepoTags": []},
    ]
    fake.answers["GET /images/json"] = (200, images)
    fake.answers["GET /networks"] = (200, [{"Name": "bridge", "Driver": "bridge"}])
    volumes = [{"Name": "data", "Driver": "local"}]
    fake.answers["GET /volumes"] = (200, {"Volumes": volumes})
    plugins = {"Log": ["json-file", "local"], "Network": ["bridge", "macvlan"], "Volume": ["local"]}
    fake.answers["GET /info"] = (200, {"Plugins": plugins, "Runtimes": {"crun": {}, "sampan": {}}})
    return fake


@pytest.fixture
def offered(cli, stocked):
    """The candidates for the last word, without their descriptions."""

    def offer(*words):
        code, out, said = cli("__complete", *words)
        assert (code, said) == (0, "")
        return [line.partition("\t")[0] for line in out.splitlines()]

    return offer


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ru", ["run"]),
        ("--tlsv", ["--tlsverify"]),
        ("--log-level w", ["warn"]),
        ("--context=def", ["--context=default"]),
        ("help imag", ["image", "images"]),
        ("help image l", ["load", "ls"]),
        ("container re", ["rename", "restart"]),
        ("rm ", ["web", "waits", "worker"]),
        ("rm -f web wa", ["waits"]),
        ("rm -f web we", []),
        ("start ", ["waits"]),
        ("kill ", ["web", "worker"]),
        ("unpause ", ["worker"]),
        ("rename web ", []),
        ("exec -it -u root ", ["web", "worker"]),
        ("exec web w", []),
        ("run --rm -v /a:/b -e X=1 deb", ["debian:bookworm"]),
        ("run debian:bookworm -", []),
        ("run 10.0.0.1:5", ["10.0.0.1:5000/tool:1"]),
        ("rmi b", ["bbbbbbbbbbbb"]),
        ("run -it --restart un", ["unless-stopped"]),
        ("run --restart=un", ["--restart=unless-stopped"]),
        ("run --rm=un", []),
        ("run --network ", ["bridge", "container:"]),
        ("run --network=container:we", ["--network=container:web"]),
        ("run -v d", ["data:", ":folders"]),
        ("run --env-file ", [":files"]),
        ("run --env-file=x", [":files"]),
        ("run --cap-add NET_A", ["NET_ADMIN"]),
        ("run --stop-signal SIGTE", ["SIGTERM"]),
        ("run --log-driver j", ["json-file"]),
        ("run --runtime c", ["crun"]),
        ("run --name ", []),
        ("run -d --na", ["--name"]),
        ("run --name x --na", []),
        ("cp w", ["web:", "waits:", "worker:", ":files"]),
        ("build ", [":folders"]),
        ("build --network h", ["host"]),
        ("load -i ", [":files"]),
        ("ps -f status=pa", ["status=paused"]),
        ("ps --filter=status=pa", ["--filter=status=paused"]),
        ("ps -f nam", ["name="]),
        ("images -f before=deb", ["before=debian:bookworm"]),
        ("network connect ", ["bridge"]),
        ("network connect bridge we", ["web"]),
        ("network create -d m", ["macvlan"]),
        ("volume rm ", ["data"]),
        ("inspect --type v", ["volume"]),
        ("inspect br", ["bridge"]),
        ("completion z", ["zsh"]),
        ("completion zsh ", []),
        ("no such ", []),
        ("-H tcp://a -H tcp://b rm ", []),
    ],
)
def test_candidates(offered, line, found):
    assert offered(*line.split(" ")) == found


def test_stages_of_the_dockerfile_here(offered, tmp_path, monkeypatch):
    (tmp_path / "Dockerfile").write_text("FROM a AS one\nfrom --platform=x b as two\nFROM one\n")
    monkeypatch.chdir(tmp_path)
    assert offered("build", "--target", "") == ["one", "two"]


def test_flags_choose_the_daemon_and_none_is_started(offered, stocked, monkeypatch, tmp_path):
    host = os.environ["SAMPAN_HOST"]
    monkeypatch.setenv("SAMPAN_HOST", "")
    monkeypatch.setenv("SAMPAN_RUN_DIR", str(tmp_path / "r"))
    monkeypatch.setenv("SAMPAN_STATE_DIR", str(tmp_path / "state"))
    assert offered("rm", "w") == []
    assert not (tmp_path / "r").exists() and not (tmp_path / "state").exists()
    assert offered("-H", host, "rm", "web") == ["web"]
    assert offered(f"--host={host}", "rm", "web") == ["web"]


# Completes as ours does, and tells what else it is asked to do.
PROGRAM = f"""#!{sys.executable} -P
import sys
if sys.argv[1] in ("completion", "__complete"):
    from sampan.cli.main import entry
    entry()
print("started with", tuple(sys.argv[1:]))
"""


class Shell:
    """A shell on a terminal, with our completion and a folder with a few files."""

    def __init__(self, argv, setup, folder, environment):
        self._seen = b""
        pid, self._terminal = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe(argv[0], argv, environment)
        self._pid = pid
        self.type(f"{setup}; echo rea''dy\n")
        self.wait_for("ready")

    def type(self, text):
        os.write(self._terminal, text.encode())

    def wait_for(self, text):
        deadline = time.monotonic() + 30
        while text.encode() not in ESCAPES.sub(b"", self._seen):
            assert time.monotonic() < deadline, f"no {text!r} in {self._seen!r}"
            if select.select([self._terminal], [], [], 0.5)[0]:
                self._seen += os.read(self._terminal, 65536)

    def complete(self, line, *words):
        """Complete the last word of a command line and start it; it has these ``words`` then."""
        self.type(f"sampan {line}\t\n")
        self.wait_for(f"started with {words}")

    def close(self):
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "source <(sampan completion bash); alias other=sampan; complete -F _sampan_complete other",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "fpath=($PWD $fpath); sampan completion zsh > _sampan; autoload -U compinit; compinit -uD",
    ),
    "fish": (["fish", "--no-config", "-i"], "sampan completion fish | source"),
}


@pytest.mark.parametrize("name", SHELLS)
def test_in_a_shell(stocked, tmp_path, name):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    argv, setup = SHELLS[name]
    folder = tmp_path / "w"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "local.txt").touch()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sampan"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "SAMPAN_HOST": os.environ["SAMPAN_HOST"],
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }
    shell = Shell(argv, setup, folder, environment)
    try:
        shell.complete("netw", "network")
        shell.complete("run --restart=un", "run", "--restart=unless-stopped")
        shell.complete("run debian:b", "run", "debian:bookworm")
        shell.complete("run 10.0.0.1:5000/t", "run", "10.0.0.1:5000/tool:1")
        shell.complete("run --network=container:we", "run", "--network=container:web")
        shell.complete("run -v da", "run", "-v", "data:")
        shell.complete("cp lo", "cp", "local.txt")
        shell.complete("build --file=lo", "build", "--file=local.txt")
        shell.type("sampan build su\t\n")
        shell.wait_for("started with ('build', 'sub")  # zsh leaves the last slash out
        if name == "bash":
            shell.type("other netw\t\n")
            shell.wait_for("started with ('network',)")
            shell.complete("run -v data:/x debian:", "run", "-v", "data:/x", "debian:bookworm")
            shell.type("COMP_WORDBREAKS=${COMP_WORDBREAKS//[:=]}\n")
            shell.complete("rmi debian:", "rmi", "debian:bookworm")
            shell.complete("rmi 10.0.0.1:5000/t", "rmi", "10.0.0.1:5000/tool:1")
            shell.complete("create --restart=un", "create", "--restart=unless-stopped")
            shell.complete("build --iidfile=lo", "build", "--iidfile=local.txt")
    finally:
        shell.close()
