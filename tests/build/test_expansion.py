"""Variables and ignore patterns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.dockerfile.errors import SyntaxProblem
from sampan.build.dockerfile.expand import expand, expand_words
from sampan.image.ignore import IgnoreMatcher, PatternError, read_ignore_file

ENV = {"x": "value", "e": "", "path": "/a/b/c.tar.gz", "n": "1", "star": "a*b"}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("$x", "value"),
        ("${x}", "value"),
        ("a${x}b", "avalueb"),
        ("$xy", ""),
        ("${u}", ""),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("\\$x", "$x"),
        ("'$x'", "$x"),
        ('"$x"', "value"),
        ('"\\$x"', "$x"),
        ('"\\a"', "\\a"),
        ("\\a", "a"),
        ("${u:-default}", "default"),
        ("${e:-default}", "default"),
        ("${e-default}", ""),
        ("${u-default}", "default"),
        ("${x:-default}", "value"),
        ("${x:+set}", "set"),
        ("${e:+set}", ""),
        ("${e+set}", "set"),
        ("${u+set}", ""),
        ("${u:-${x}}", "value"),
        ("${u:-${v:-deep}}", "deep"),
        ("${path#/a}", "/b/c.tar.gz"),
        ("${path#*/}", "a/b/c.tar.gz"),
        ("${path##*/}", "c.tar.gz"),
        ("${path%.*}", "/a/b/c.tar"),
        ("${path%%.*}", "/a/b/c"),
        ("${path#nomatch}", "/a/b/c.tar.gz"),
        ("${path%?z}", "/a/b/c.tar."),
        ("${star#a\\*}", "b"),
        ("${path/b/X}", "/a/X/c.tar.gz"),
        ("${path//\\//_}", "_a_b_c.tar.gz"),
        ("${path/*./}", "gz"),
        ("${x:?message}", "value"),
        ("$1", ""),
        ("$n$x", "1value"),
    ],
)
def test_forms(word: str, result: str) -> None:
    assert expand(word, ENV) == result


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${", "missing '}'"),
        ("${x", "missing '}'"),
        ("${}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${x:}", "unsupported modifier"),
        ("${x!y}", "unsupported modifier"),
        ("${x:#y}", "unsupported modifier"),
        ("${u:?is needed}", "u: is needed"),
        ("${u?}", "not allowed to be unset"),
        ("${e:?}", "not allowed to be empty"),
        ("'abc", "matching single-quote"),
        ('"abc', "matching double-quote"),
        ("${u:-" * 60 + "x", "nested too deeply"),
    ],
)
def test_mistakes(word: str, message: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        expand(word, ENV)
    assert message in str(caught.value)


def test_other_escape_and_words() -> None:
    assert expand("`$x\\$x", ENV, "`") == "$x\\value"
    assert expand_words("80 $x 'a b'", ENV) == ["80", "value", "a b"]
    assert expand_words("$m", {"m": "1 2  3"}) == ["1", "2", "3"]
    assert expand("say \"$x\" '$x'", ENV, keep_quotes=True) == "say \"value\" 'value'"


def test_used_and_unset() -> None:
    used: set[str] = set()
    unset: set[str] = set()
    expand("$x ${nope} ${other:-d}", ENV, used=used, unset=unset)
    assert used == {"x", "nope", "other"}
    assert unset == {"nope"}


@given(st.text("$x{}:-+?#%/*'\"\\ ab", max_size=30))
@settings(max_examples=500, deadline=2000)
def test_no_word_breaks_it(word: str) -> None:
    try:
        expand(word, ENV)
        expand_words(word, ENV)
    except SyntaxProblem:
        pass


@given(st.text("abcé_-./", max_size=30))
def test_plain_words_stay(word: str) -> None:
    assert expand(word, ENV) == word


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        ("*.log", "a.log", True),
        ("*.log", "d/a.log", False),
        ("**/*.log", "d/e/a.log", True),
        ("**/*.log", "a.log", True),
        ("d", "d/e/f", True),
        ("d/", "d/e", True),
        ("/d", "d", True),
        ("d/**", "d/e/f", True),
        ("d/**/f", "d/f", True),
        ("d/**/f", "d/x/y/f", True),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "other", True),
        ("!keep\n*", "keep", True),
        ("d\n!d/keep", "d/keep", False),
        ("d\n!d/keep", "d/other", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab]x", "bx", True),
        ("[^ab]x", "bx", False),
        ("[^ab]x", "cx", True),
        ("\\*x", "*x", True),
        ("\\*x", "ax", False),
        ("# comment\n\n  spaced  ", "spaced", True),
        ("./a/../b", "b", True),
        ("a.b", "aXb", False),
        ("*", ".git", True),
        ("**.md", "a/b/c.md", True),
        ("**.md", "a/b/c.mdx", False),
        ("**a", "x/ba/y", True),
        ("**a*", "x/ba", False),
        ("a**b", "a/xb", False),
        ("a**b", "ax/b", True),
        ("/", "a", False),
        ("//", "a", False),
        ("//a//", "a", True),
        ("[a\\-c]", "-", True),
        ("[a\\-c]", "b", False),
        ("[\\]]", "]", True),
        ("[a-c]x", "bx", True),
    ],
)
def test_ignore(patterns: str, path: str, excluded: bool) -> None:
    assert IgnoreMatcher(read_ignore_file(patterns)).excludes(path) is excluded


def test_prune_knows_exceptions() -> None:
    matcher = IgnoreMatcher(["*", "!src/keep", "!**/x.md"])
    assert not matcher.prunes("src")
    assert not matcher.prunes("other")
    assert IgnoreMatcher(["*", "!src/keep"]).prunes("other")


@pytest.mark.parametrize(
    "pattern",
    ["[a", "a\\", "!", "!/", "! /./", "[]", "[]a]", "[a-]", "[-a]", "[^]", "[z-a]", "[a\\"],
)
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(PatternError):
        IgnoreMatcher(read_ignore_file(pattern))
