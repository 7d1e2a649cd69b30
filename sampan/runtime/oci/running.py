"""``run``: create, start, and unless detached wait and delete."""

from __future__ import annotations

from sampan.linux import process
from sampan.runtime.oci import create, lifecycle, notify, waiting
from sampan.runtime.oci.options import Options


def run(root: str, options: Options) -> int:
    """``run``: make, start, and unless detached wait and delete."""
    detached = options.flag("detach")
    if not detached and not options.flag("no-subreaper"):
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    if not detached:
        waiting.hold_signals()
    made = create.make(root, options, detached=detached, gated=False)
    create.finish(made, options)
    lifecycle.poststart(made.record, made.config)
    if made.ready and detached:
        notify.pass_on(made.ready, made.record.pid)
    elif made.ready:
        notify.pass_on_meanwhile(made.ready, made.record.pid)
    if detached:
        return 0
    master = None if options.text("console-socket") else made.master
    code = waiting.wait(made.record.pid, made.handle, master)
    if not options.flag("keep"):
        lifecycle.forget(made.record, made.config)
    return code
