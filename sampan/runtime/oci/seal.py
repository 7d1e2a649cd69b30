"""The first stage of ``sampan-oci``: run again from a sealed copy of the interpreter.

A process that enters a container must not be the host's own executable, or a program inside could
write to it through ``/proc/PID/exe``.  Commands that enter none go on at once.
"""

from __future__ import annotations

import os
import sys

_ENTERING = frozenset({"create", "run", "exec", "restore"})
_CODE = "import sys; sys.path = {!r}; from sampan.runtime.oci.main import main; main({!r})"


def entry() -> None:
    """The command line of the calling process; does not return."""
    if _ENTERING.isdisjoint(sys.argv[1:]):
        from sampan.runtime.oci.main import main

        main(sys.argv[0])
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
