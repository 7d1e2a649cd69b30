"""Containers run by another OCI runtime (crun, runc, runsc …) under our keeper.

The keeper, its streams, log, restarts, health checks and control connections are the same as for
our own start; only what makes the processes differs.  A starter mounts the root file system in a
mount namespace of its own, writes a *bundle* (:mod:`.bundle`) and has the runtime ``create`` and
``start`` it (:mod:`.start`); further processes are made by the runtime's ``exec``.  What is to be
signalled or forgotten goes through its ``kill`` and ``delete`` (:mod:`.end`).  Each is one run of
the runtime's command line (:mod:`.command`) with ``--root`` in the container's run directory, so
that nothing is shared between containers and all of it goes with the directory.
"""
