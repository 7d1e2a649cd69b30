"""What makes the start of sampan-oci short: stand-ins for modules, and code that is kept together."""

from __future__ import annotations

import importlib
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
from sampan import together
together.install("demo", ["--words", "command"])
together.preload()
early = "sampan.runtime.users" in sys.modules
from sampan.runtime import users
from sampan.linux import openat2
together.ready("command")
from sampan.runtime.oci import errors
import _ctypes
for module in users, openat2, errors:
    print(type(module.__spec__.loader).__name__, module.__file__, getattr(module, "MARK", 0))
print(early, _ctypes.__file__)
from sampan import runtime
assert runtime.users is users and users.open_in_root is openat2.open_in_root
assert users.__package__ == "sampan.runtime"
together.keep("demo")
"""


def test_code_is_kept_until_a_source_changes(tmp_path: Path) -> None:
    for name in ("__init__.py", "errors.py", "together.py", "runtime", "linux"):
        source = SOURCE / "sampan" / name
        target = tmp_path / "sampan" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    files = [
        tmp_path / f"sampan/{name}.py"
        for name in ("runtime/users", "linux/openat2", "runtime/oci/errors")
    ]
    machine_code = importlib.import_module("_ctypes").__file__
    marks = {file: 0 for file in files}

    def loaded(*others: Path, early: bool = True) -> None:
        """All but the others come from the kept file."""
        said = python(tmp_path, TOGETHER).splitlines()
        assert said == [
            *(
                f"{'SourceFileLoader' if file in others else '_Kept'} {file} {marks[file]}"
                for file in files
            ),
            f"{early} {machine_code}",
        ]

    def kept() -> Path:
        (found,) = (tmp_path / "sampan/__pycache__").glob("demo-command.*")
        return found

    loaded(*files, early=False)
    loaded()
    loaded()
    settled = kept().stat().st_ino
    loaded()
    assert kept().stat().st_ino == settled
    for file in files:
        with file.open("a") as source:
            source.write("\nMARK = 1\n")
        marks[file] = 1
        # What is imported before the command begins runs in a fixed order, so all must be valid.
        loaded(file, early=file == files[2])
        loaded()
    content = kept().read_bytes()
    for damaged in (b"damaged", b"", content[:-1], content[:100]):
        kept().write_bytes(damaged)
        loaded(*files, early=False)
        loaded()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import json; print(json.loads(b' [1, {\"a\": null}] '))", "[1, {'a': None}]"),
        (
            "import json; print(json.dumps({'a': [1.5, 'é', None]}))",
            '{"a": [1.5, "\\u00e9", null]}',
        ),
        (
            "import json; print(json.dumps({'a': [], 'b': {}, 'c': [1, {'d': 'é'}, None]}, indent=1))",
            '{\n "a": [],\n "b": {},\n "c": [\n  1,\n  {\n   "d": "\\u00e9"\n  },\n  null\n ]\n}',
        ),
        (
            "import json\ntry: json.loads('[1,')\nexcept ValueError as e: print(e)",
            "Expecting value",
        ),
        ("import json\ntry: json.loads('1 2')\nexcept ValueError as e: print(e)", "Extra data"),
        ("import json\ntry: json.loads(b'\\xff\\xff')\nexcept ValueError as e: print('no')", "no"),
        ("import re; print(re.compile('a+').fullmatch('aaa')[0])", "aaa"),
        ("import re; print(re.sub('a', 'b', 'aa'))", "bb"),
        (
            "import fcntl, os, select, struct, tempfile\n"
            "with tempfile.TemporaryFile() as f:\n"
            "    fcntl.flock(f.fileno(), fcntl.LOCK_EX); print(fcntl.fcntl(f.fileno(), 1))\n"
            "r, w = os.pipe()\n"
            "os.write(w, b'abc')\n"
            "print(int.from_bytes(fcntl.ioctl(r, 0x541B, bytes(4)), 'little'))\n"
            "try: fcntl.ioctl(r, 0x5401, bytes(64))\nexcept OSError as e: print(e)\n"
            "print(select.select([r], [], [], 0)[0] == [r], struct.pack('<H', 5))",
            "1\n3\n[Errno 25] Inappropriate ioctl for device\nTrue b'\\x05\\x00'",
        ),
        (
            "import ctypes, os\n"
            "c = ctypes.CDLL(None, use_errno=True)\n"
            "class Pair(ctypes.Structure): _fields_ = (('a', ctypes.c_uint32), ('b', ctypes.c_uint64))\n"
            "p = Pair(1, 2**40); b = ctypes.create_string_buffer(b'x\\0y'); z = ctypes.create_string_buffer(3)\n"
            "q = Pair(); ctypes.memmove(ctypes.addressof(q), ctypes.addressof(p), ctypes.sizeof(p))\n"
            "print(ctypes.sizeof(p), q.b == 2**40, b.raw, z.raw, ctypes.sizeof(ctypes.c_size_t))\n"
            "m = c.mkdir; m.argtypes = (ctypes.c_char_p, ctypes.c_uint); print(m(b'/', 0), ctypes.get_errno())\n"
            "f = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.cast(c.abs, ctypes.c_void_p).value)\n"
            "print(f(-4))",
            "16 True b'x\\x00y\\x00' b'\\x00\\x00\\x00' 8\n-1 17\n4",
        ),
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
            "import os, socket\n"
            "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "a.send(b'one'); a.send(b'two'); print(b.recv(10), b.recv(2), os.get_inheritable(b.fileno()))\n"
            "b.setblocking(False)\n"
            "try: socket.recv_fds(b, 10, 1)\nexcept BlockingIOError: print('none yet')\n"
            "a.sendmsg([b'no', b'ne'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b'')])\n"
            "print(socket.recv_fds(b, 10, 1)[:2])\n"
            "socket.send_fds(a, [b'both'], [0, 1])\n"
            "data, fds, _, _ = socket.recv_fds(b, 2, 2)\n"
            "print(data, len(fds))\n"
            "b.close()\n"
            "try: a.send(b'x')\nexcept BrokenPipeError: print('broken')\n"
            "print(a.recv(5))\n"
            "with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as c:\n"
            "    try: c.connect('/')\n    except OSError as e: print(type(e).__name__)",
            "b'one' b'tw' False\nnone yet\n(b'none', [])\nb'bo' 2\nbroken\nb''\n"
            "ConnectionRefusedError",
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


HAVE_STAND_INS = (
    "typing contextlib functools re enum json socket signal ctypes fcntl struct _struct resource "
    "select"
)


# As Podman makes bundles, and what of the modules is needed then: it has no stand-in.
AS_PODMAN = {
    "sysctl": {"net.ipv4.ping_group_range": "0 0"},
    "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {
                "names": ["personality"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
            },
            {"names": ["acct", "swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        ],
    },
}
LIMITS = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("as_podman", [False, True])
def test_a_run_imports_no_module_that_has_a_stand_in(tmp_path: Path, as_podman: bool) -> None:
    """One name that a stand-in lacks would bring the modules, and twice the time of a start."""
    (tmp_path / "bundle").mkdir()
    bundle = Bundle(tmp_path / "bundle")
    if as_podman:
        bundle.config["linux"] |= AS_PODMAN
        bundle.config["process"]["rlimits"] = LIMITS
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
    ours = next(n for n, line in enumerate(lines) if line.endswith("sampan.together"))
    imported = {line.rpartition("|")[2].strip() for line in lines[ours:]}
    needed = {"resource", "_struct"} if as_podman else set()
    assert not imported & set(HAVE_STAND_INS.split()) - needed
