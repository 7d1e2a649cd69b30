"""Type lines from standard input into a command on a terminal, each at the shell's prompt.

Usage: type-into COMMAND [ARGUMENT …].  Everything that the terminal shows goes to standard
output; the exit status is the command's.
"""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time

SECONDS_TO_A_PROMPT = 120
PROMPT = re.compile(rb"[#$] (\x1b\[[0-9;?]*[a-zA-Z])*$")


def main() -> int:
    lines = sys.stdin.buffer.read().splitlines(keepends=True)
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[1], sys.argv[1:])
    seen, deadline = b"", time.monotonic() + SECONDS_TO_A_PROMPT
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 1)
        if not ready:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed: the command has ended
            data = b""
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        seen = (seen + data)[-200:]
        if lines and PROMPT.search(seen):
            os.write(terminal, lines.pop(0))
            seen, deadline = b"", time.monotonic() + SECONDS_TO_A_PROMPT
    else:
        os.close(terminal)  # hangs up, which ends the command
        print("no prompt came", file=sys.stderr)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


sys.exit(main())
