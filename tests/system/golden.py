"""Golden files: what the docker CLI prints with Docker's own engine, to compare ours with.

``golden/COMMAND.txt`` has one block a command line.  ``scripts/golden`` writes the files by running
the tables of ``cli_rows`` against a real dockerd.  What differs from run to run (identifiers,
times, sizes, places) is written as a word in angle brackets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"

_SIZE = r"\b\d+(?:\.\d+)?(?:e[+-]\d+)? ?(?:[kMGT]i?)?B\b"
_AGO = (
    r"(?:Less than a second|About a minute|About an hour|\d+ (?:seconds?|minutes?|hours?|days?"
    r"|weeks?|months?|years?))"
)
_RULES = [
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\x1b\[[0-9;]*[A-Za-z]", ""),
        (r"sha256:[0-9a-f]{64}", "<digest>"),
        (r"sha256:[0-9a-f]{12}\b", "<short digest>"),
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b[0-9a-f]{12}\b", "<short id>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "<time>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} \w+", "<time>"),
        (rf"{_AGO} ago", "<ago>"),
        (rf"\bUp {_AGO}", "Up <while>"),
        (_SIZE, "<size>"),
        (r"(?<=digest: <digest> size: )\d+", "<number>"),
        (r"(?<=^Server: sampan )\S+", "<version>"),
        (r"\b\d+(?:\.\d+)?%", "<percent>"),
        (r"(?<=127\.0\.0\.1:)\d+", "<port>"),
        (r"(?<=/dev/pts/)\d+", "<number>"),
        (r"(?<=\.dockerfile\.)[0-9a-f]+", "<random>"),
    )
]
_BUILD = re.compile(
    r"^(?: ---> Using cache| ---> Running in .*| ---> Removed intermediate container .*"
    r"|\[Warning\] .*)\n",
    re.MULTILINE,
)
_TRANSFER = re.compile(
    r"(?:^<short id>: (?:Preparing|Waiting|Pushed|Layer already exists|Mounted from .*|Pulling fs layer"
    r"|Verifying Checksum|Download complete|Pull complete|Already exists)\n)+",
    re.MULTILINE,
)
_COLUMNS = re.compile(r" {2,}|\t+")


def normal(text: str, places: Mapping[str, str] | None = None) -> str:
    """``text`` without what differs from run to run; ``places`` are values to put names for."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for name, value in sorted((places or {}).items(), key=lambda item: -len(item[1])):
        if len(value) > 4:
            text = text.replace(value, f"<{name}>")
    for pattern, word in _RULES:
        text = pattern.sub(word, text)
    # What a build finds in its cache, and what it runs for it, is the builder's own business; and
    # so is good advice.
    text = _BUILD.sub("", text)
    # What a transfer of a layer goes through depends on what is there already.
    text = _TRANSFER.sub("", text)
    # Columns are as wide as their widest value, which differs.
    lines = [_COLUMNS.sub("  ", line).rstrip() for line in text.splitlines()]
    return "\n".join(lines).strip("\n")


def transcript(output: str, errors: str, code: int, places: Mapping[str, str]) -> str:
    """What a command printed and how it ended."""
    parts = [normal(output, places)]
    if errors.strip():
        parts.append("(errors)\n" + normal(errors, places))
    if code:
        parts.append(f"(exit {code})")
    return "\n".join(part for part in parts if part)


class Golden:
    """The blocks of all files, by command line."""

    def __init__(self) -> None:
        self._blocks: dict[str, dict[str, str]] = {}
        for path in sorted(FOLDER.glob("*.txt")):
            self._blocks[path.stem] = _parse(path.read_text())

    def get(self, command: str, line: str) -> str | None:
        """What the command line has to print; None if no golden file has it."""
        return self._blocks.get(_stem(command), {}).get(line)

    def put(self, command: str, line: str, text: str) -> None:
        """Write a block, in its place in the order of lines."""
        blocks = self._blocks.setdefault(_stem(command), {})
        blocks[line] = text
        FOLDER.mkdir(exist_ok=True)
        whole = "".join(f"$ docker {name}\n{blocks[name]}\n\n" for name in sorted(blocks))
        (FOLDER / f"{_stem(command)}.txt").write_text(whole.replace("\n\n\n", "\n\n"))


def _stem(command: str) -> str:
    return command.replace(" ", "_")


def _parse(text: str) -> dict[str, str]:
    found = {}
    for block in re.split(r"^\$ docker ", text, flags=re.MULTILINE)[1:]:
        line, _, rest = block.partition("\n")
        found[line] = rest.strip("\n")
    return found
