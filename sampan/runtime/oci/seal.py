"""The start of ``sampan-oci``: a process that enters containers lets go of its executable first.

A process in a container must not run from the host's own executable, or a program inside could
write to it through ``/proc/PID/exe``.  Commands that enter none go on at once; so do those that can
let go of it as they are (:mod:`sampan.linux.executable`).  Else the interpreter is started again
from a sealed copy.  Nobody in a container can look into the process either.
"""

from __future__ import annotations

import os
import sys

from sampan import together
from sampan.runtime.oci import lean

_ENTERING = frozenset({"create", "run", "exec", "restore"})
_CODE = "import gc, sys; gc.disable(); sys.path = {!r}; from sampan.runtime.oci.seal import go_on; go_on({!r})"


def entry() -> None:
    """The command line of the calling process; does not return."""
    lean.install()
    together.preload()
    if not _ENTERING.isdisjoint(sys.argv[1:]):
        from sampan.linux import executable

        if not executable.leave():
            _start_again()
    go_on(sys.argv[0])


def go_on(program: str) -> None:
    """The command line, by a process that may enter containers; does not return."""
    lean.install()
    from sampan.runtime.oci.main import main

    if not _ENTERING.isdisjoint(sys.argv[1:]):
        from sampan.linux.process import set_dumpable

        set_dumpable(False)
    main(program)


def _start_again() -> None:
    from sampan.linux.memfd import sealed_copy

    try:
        image = sealed_copy("/proc/self/exe", "sampan-oci")
    except OSError as failure:
        print(f"sampan-oci: cannot copy the interpreter: {failure.strerror}", file=sys.stderr)
        sys.exit(1)
    code = _CODE.format(_path(), sys.argv[0])
    os.execve(image, [sys.executable, "-I", "-S", "-c", code, *sys.argv[1:]], os.environ)


def _path() -> list[str]:
    """``sys.path`` in the order in which things are found: each directory before costs a look."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    library = os.path.dirname(os.__file__)
    known = [entry for entry in sys.path if entry.startswith(library) and "-packages" not in entry]
    return [*known, ours, *(entry for entry in sys.path if entry not in (*known, ours))]
