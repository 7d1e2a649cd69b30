"""The OCI runtime's command line, ``sampan-oci``: what runc and crun are to Podman and containerd.

It starts processes by the same code as the engine does (:mod:`sampan.runtime.rootfs`,
:mod:`sampan.runtime.confine`) but has no keeper: each command is a short-lived process, and what
is to be known of a container lies in its *record*, a directory below ``--root``
(:mod:`.records`).

A *bundle* is a directory with ``config.json`` and a root file system (:mod:`.bundle`).  ``create``
leaves the *first process* (:mod:`.child`) complete but for its execve, waiting on its *gate*, a
socket in the record; ``start`` opens the gate and hears whether the program could be executed.
*Hooks* (:mod:`.hooks`) are the bundle's programs at fixed points of that life.

The command lines are runc's and crun's.  What of the runtime specification 1.2 is not done is
refused by its name.  Nothing here imports what a command does not need: the start of the
interpreter is most of the time that a command takes.
"""
