"""Flags are read as Docker's command line reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli import flags
from sampan.cli.failure import UsageFailure
from sampan.cli.flags import Flag, Help, parse

FLAGS = (
    Flag("all", "", "", "a"),
    Flag("tty", "", "", "t"),
    Flag("interactive", "", "", "i"),
    Flag("sig-proxy", "", "", default=True),
    Flag("env", "list", "", "e"),
    Flag("name", "string", ""),
    Flag("last", "int", "", "n"),
    Flag("memory", "bytes", "", "m"),
    Flag("cpus", "decimal", ""),
    Flag("wait", "duration", ""),
    Flag("sets", "strings", ""),
)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-a"], "all", True),
        (["--all=false"], "all", False),
        (["--sig-proxy=false"], "sig-proxy", False),
        ([], "sig-proxy", True),
        (["-it"], "tty", True),
        (["-e", "A=1", "-eB=2", "--env", "C", "--env=D"], "env", ["A=1", "B=2", "C", "D"]),
        (["-e=A=1"], "env", ["A=1"]),
        (["-n", "-1"], "last", -1),
        (["-n5"], "last", 5),
        (["-m", "1.5g"], "memory", 1610612736),
        (["--cpus", "1.25"], "cpus", 1_250_000_000),
        (["--cpus", ".5"], "cpus", 500_000_000),
        (["--wait", "1m30s"], "wait", 90_000_000_000),
        (["--sets", "a,b", "--sets=c"], "sets", ["a", "b", "c"]),
        (["--name="], "name", ""),
    ],
)
def test_values(words, name, value):
    options, arguments = parse(FLAGS, words)
    assert options[name] == value
    assert arguments == []


def test_flags_after_arguments():
    options, arguments = parse(FLAGS, ["x", "-a", "y"])
    assert options["all"] and arguments == ["x", "y"]
    options, arguments = parse(FLAGS, ["x", "-a", "y"], interspersed=False)
    assert not options["all"] and arguments == ["x", "-a", "y"]
    assert parse(FLAGS, ["-a", "--", "-t"])[1] == ["-t"]
    assert parse(FLAGS, ["-"])[1] == ["-"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bogus"], "unknown flag: --bogus"),
        (["--bogus=x"], "unknown flag: --bogus"),
        (["-ax"], "unknown shorthand flag: 'x' in -ax"),
        (["--name"], "flag needs an argument: --name"),
        (["-e"], "flag needs an argument: 'e' in -e"),
        (["--=x"], "bad flag syntax: --=x"),
        (
            ["-n", "x"],
            'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": '
            "invalid syntax",
        ),
        (
            ["--all=x"],
            'invalid argument "x" for "-a, --all" flag: strconv.ParseBool: parsing "x": '
            "invalid syntax",
        ),
        (["-m", "x"], 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
        (
            ["--cpus", "x"],
            'invalid argument "x" for "--cpus" flag: failed to parse x as a rational number',
        ),
    ],
)
def test_what_is_wrong_is_named(words, message):
    with pytest.raises(UsageFailure) as caught:
        parse(FLAGS, words)
    assert (caught.value.message, caught.value.code) == (message, 125)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["-ah"]])
def test_help(words):
    with pytest.raises(Help):
        parse(FLAGS, words)


def test_short_help_gives_way_to_a_flag():
    options, _ = parse([Flag("hostname", "string", "", "h")], ["-h", "x"], help_short=False)
    assert options["hostname"] == "x"


@given(st.lists(st.text(max_size=6)))
def test_any_words_parse_or_are_refused(words):
    try:
        parse(FLAGS, words)
    except (UsageFailure, Help):
        pass


@given(st.text(max_size=8), st.sampled_from([flags.size, flags.duration, flags.nano]))
def test_any_text_is_a_value_or_a_value_error(text, read):
    try:
        assert isinstance(read(text), int)
    except ValueError:
        pass


@given(st.integers(0, 2**50), st.sampled_from(["", "b", "B", "k", "K", "kb", "KiB", "m", "g"]))
def test_sizes_are_powers_of_1024(number, unit):
    power = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3}[unit.lower()[:1]]
    assert flags.size(f"{number}{unit}") == number * 1024**power
