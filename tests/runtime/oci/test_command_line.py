"""The command line: help, the forms of options, and what a user of runc and crun is used to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from sidebyside import Bundle, Runtime, name

from sampan.runtime.oci import helping, main, reports
from sampan.runtime.oci.errors import OciError
from sampan.runtime.oci.options import parse

LETTERS = {"t": "tty", "d": "detach", "e": "env", "u": "user"}


def test_each_command_and_option_is_explained() -> None:
    assert list(helping.COMMANDS) == list(main._COMMANDS)
    assert {*main._GLOBAL.split(), *main._GLOBAL_VALUED.split()} == set(helping.GLOBAL)
    known = {"help"}
    for word, command in main._COMMANDS.items():
        flags, valued = command.flags.split(), command.valued.split()
        known |= {*flags, *valued}
        assert set(command.short.values()) <= {*flags, *valued}
        shown = helping.command(word, [*flags, *valued], command.short)
        assert shown.startswith(f"usage: sampan-oci {word} [OPTION …]")
        assert all(helping.OPTIONS[flag][0] == "" for flag in flags)
        assert all(f"--{option} {helping.OPTIONS[option][0]}" in shown for option in valued)
    assert known == set(helping.OPTIONS)
    lines = [*helping.overview().splitlines(), *shown.splitlines()]
    assert max(len(line) for line in lines) <= 100


@pytest.mark.parametrize(
    ("words", "values", "arguments"),
    [
        ("-t -d one -e A=1", {"tty": ["true"], "detach": ["true"]}, "one -e A=1"),
        ("-tde A=1 -eB= one", {"tty": ["true"], "detach": ["true"], "env": ["A=1", "B="]}, "one"),
        ("-e=A=1 --env=B -env C", {"env": ["A=1", "B", "C"]}, ""),
        (
            "-u5:6 -t=false --detach=true",
            {"user": ["5:6"], "tty": ["false"], "detach": ["true"]},
            "",
        ),
        ("-td=false -- -x", {"tty": ["true"], "detach": ["false"]}, "-x"),
        ("-tu 7 -", {"tty": ["true"], "user": ["7"]}, "-"),
    ],
)
def test_forms_of_options(words: str, values: dict[str, list[str]], arguments: str) -> None:
    found = parse(words.split(), "tty detach", "env user", LETTERS)
    assert found.values == values
    assert found.arguments == arguments.split()


@pytest.mark.parametrize("words", ["-x", "-tx", "--t", "--tt", "-te", "-u", "--user", "-tt=x -éa"])
def test_options_that_are_none(words: str) -> None:
    with pytest.raises(OciError, match=r"unknown option -|needs a value"):
        parse(words.split(), "tty detach", "env user", LETTERS)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000), ("2", 2000), ("0", 0)],
)
def test_durations(text: str, wanted: int) -> None:
    assert reports.milliseconds(text) == wanted


@pytest.mark.parametrize("text", ["s", "5x", "-1s", "5 s", "1..2s", "ms5"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(OciError, match="is no duration"):
        reports.milliseconds(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_users_of_the_others_are_used_to(bundle: Bundle, tmp_path: Path) -> None:
    ours = Runtime("sampan-oci", tmp_path / "root")
    for words in (["--help"], ["help"], [], ["h", "run"], ["run", "-h"]):
        done = ours(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: sampan-oci ")
    assert ours("run").stderr == (
        "sampan-oci: exactly one argument is wanted: the container's ID\n"
    )
    (bundle.directory / "other.json").write_text(json.dumps(bundle.script("echo other; sleep 60")))
    one = name("used")
    assert "config.json: no such file" in ours("run", "-b", str(bundle.directory), one).stderr
    with (tmp_path / "out").open("w+") as out:
        words = ["create", "-b", str(bundle.directory), "--config", "other.json", one]
        subprocess.run([*ours.base, *words], stdin=subprocess.DEVNULL, stdout=out, check=True)
        try:
            assert "sampan-oci init" in ours("ps", one).stdout
            assert json.loads(ours("list", "-fjson").stdout)[0]["owner"] == "root"
            assert ours("start", one).returncode == 0
            done = ours("exec", "-eA=1", "-u", "7", one, "sh", "-c", "echo $A $(id -u); exit 9")
            assert (done.returncode, done.stdout) == (9, "1 7\n")
            for words in ([one, "nosuch"], ["nosuch", "true"], [one]):
                done = ours("exec", *words)
                assert done.returncode == 255
                assert done.stderr.startswith("sampan-oci: exec failed: ")
        finally:
            ours("delete", "-f", one)
        assert out.seek(0) == 0 and out.read() == "other\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_signals_are_passed_on(bundle: Bundle, runtime: Runtime) -> None:
    names = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "CONT", "IO", "PWR"]
    traps = "; ".join(f"trap 'echo {number}' {number}" for number in [*names, 40])
    bundle.write(
        bundle.script(f"{traps}; trap 'exit 3' TERM; echo on; while :; do sleep 0.02; done")
    )
    words = ["run", "-b", str(bundle.directory), name("signals")]
    command = subprocess.Popen(
        [*runtime.base, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert command.stdout
    try:
        assert command.stdout.readline() == "on\n"
        for word in names:
            command.send_signal(getattr(signal, f"SIG{word}"))
            assert command.stdout.readline() == f"{word}\n"
        command.send_signal(40)
        assert command.stdout.readline() == "40\n"
        command.terminate()
        assert command.wait(20) == 3
    finally:
        command.kill()
        command.wait()
        command.stdout.close()
