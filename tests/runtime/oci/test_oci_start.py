"""What makes the start of sampan-oci short: stand-ins for modules, and code that is kept together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ocicontainer import SCRIPT
from sidebyside import Bundle

SOURCE = Path(__file__).parents[3]


def python(place: Path, script: str) -> str:
    """What a script says that runs on the packages at ``place``."""
    code = f"import sys; sys.path.insert(0, {str(place)!r})\n{script}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TOGETHER = """
from sampan.runtime.oci import together
together.install("demo")
from sampan.runtime.oci import options
print(type(options.__spec__.loader).__name__, options.__file__, getattr(options, "MARK", 0))
together.keep()
"""


def test_code_is_kept_until_a_source_changes(tmp_path: Path) -> None:
    for name in ("__init__.py", "errors.py", "runtime", "linux"):
        source = SOURCE / "sampan" / name
        target = tmp_path / "sampan" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    options = tmp_path / "sampan/runtime/oci/options.py"

    def loaded() -> list[str]:
        return python(tmp_path, TOGETHER).split()

    assert loaded() == ["SourceFileLoader", str(options), "0"]
    assert loaded() == ["_Finder", str(options), "0"]
    with options.open("a") as file:
        file.write("\nMARK = 1\n")
    assert loaded() == ["SourceFileLoader", str(options), "1"]
    assert loaded() == ["_Finder", str(options), "1"]
    kept = list((tmp_path / "sampan/runtime/oci/__pycache__").glob("demo.*"))
    assert len(kept) == 1
    kept[0].write_bytes(b"damaged")
    assert loaded() == ["SourceFileLoader", str(options), "1"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import json; print(json.loads(b' [1, {\"a\": null}] '))", "[1, {'a': None}]"),
        (
            "import json; print(json.dumps({'a': [1.5, 'é', None]}))",
            '{"a": [1.5, "\\u00e9", null]}',
        ),
        ("import json; print(json.dumps([1], indent=1))", "[\n 1\n]"),
        (
            "import json\ntry: json.loads('[1,')\nexcept ValueError as e: print(e)",
            "Expecting value",
        ),
        ("import json\ntry: json.loads('1 2')\nexcept ValueError as e: print(e)", "Extra data"),
        ("import json\ntry: json.loads(b'\\xff\\xff')\nexcept ValueError as e: print('no')", "no"),
        ("import re; print(re.compile('a+').fullmatch('aaa')[0])", "aaa"),
        ("import re; print(re.sub('a', 'b', 'aa'))", "bb"),
        ("import signal; print(signal.SIGTERM, signal.Signals(15).name)", "15 SIGTERM"),
        ("import subprocess; print(subprocess.run(['true']).returncode)", "0"),
        (
            "from typing import NamedTuple\n"
            "class P(NamedTuple):\n    a: int\n    b: int = 2\n"
            "    def sum(self): return self.a + self.b\n"
            "p = P(1); q = p._replace(b=5)\n"
            "print(p, q.sum(), q[1], q._asdict(), p == (1, 2))\n"
            "try: P()\nexcept TypeError: print('missing')\n"
            "try: P(1, c=2)\nexcept TypeError: print('unknown')",
            "P(a=1, b=2) 6 5 {'a': 1, 'b': 5} True\nmissing\nunknown",
        ),
        (
            "import os, socket\n"
            "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "r, w = os.pipe()\n"
            "socket.send_fds(a, [b'x'], [w])\n"
            "data, fds, _, _ = socket.recv_fds(b, 10, 2)\n"
            "os.write(fds[0], b'through'); print(data, len(fds), os.read(r, 10))",
            "b'x' 1 b'through'",
        ),
        (
            "from contextlib import contextmanager\n"
            "@contextmanager\n"
            "def held():\n    try: yield 1\n    finally: print('left')\n"
            "with held() as one: print(one)\n"
            "try:\n    with held(): raise KeyError('k')\nexcept KeyError: print('told')",
            "1\nleft\nleft\ntold",
        ),
        (
            "from contextlib import nullcontext, suppress\n"
            "with nullcontext(3) as one, suppress(OSError, KeyError): {}['x']\n"
            "try:\n    with suppress(OSError): raise KeyError('k')\n"
            "except KeyError: print(one)",
            "3",
        ),
    ],
)
def test_stand_ins_are_as_the_modules(script: str, said: str) -> None:
    lean = "from sampan.runtime.oci import lean\nlean.install()\n"
    assert python(SOURCE, script).strip().startswith(said)
    assert python(SOURCE, lean + script).strip().startswith(said)


NOT_IMPORTED = {"typing", "contextlib", "functools", "re", "enum", "json", "socket", "signal"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_run_imports_no_module_that_has_a_stand_in(tmp_path: Path) -> None:
    """One name that a stand-in lacks would bring the modules, and twice the time of a start."""
    (tmp_path / "bundle").mkdir()
    bundle = Bundle(tmp_path / "bundle")
    bundle.write(bundle.config)
    words = [sys.executable, "-X", "importtime", str(SCRIPT), "--root", str(tmp_path / "root")]
    done = subprocess.run(
        [*words, "run", "--bundle", str(bundle.directory), f"imports-{os.getpid()}"],
        input="",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    ours = next(n for n, line in enumerate(lines) if line.endswith("sampan.runtime.oci.lean"))
    imported = {line.rpartition("|")[2].strip() for line in lines[ours:]}
    assert "sampan.runtime.oci.create" in imported
    assert not imported & NOT_IMPORTED
