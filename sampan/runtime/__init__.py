"""Spawner, keeper and the making of a container process.

The *spawner* is a small fork server that the daemon starts once (:mod:`.spawner` is the daemon's
side, :mod:`.forkserver` the process).  For each container it forks a *keeper* (:mod:`.keeper`),
ahead of the request; so are its two children.  One, the *starter* (:mod:`.starter`), makes the
control group and the network while the other, the future *first process* (:mod:`.init`), builds the
root file system of what it has made already (:mod:`.stage`) and of what the request names, confines
itself, and ends in execve.  An *exec* is a further process that enters a running container (:mod:`.enter`).  The keeper owns the
streams, the log, the exit code, restarts and health probes, and serves *control connections*; the
daemon's end of one is :class:`.control.Keeper`.

The life of a container, as the daemon sees it::

    spawner = await Spawner.start(["sampan.network.dns"])
    request = KeeperRequest(id, run_dir, spec, rootfs, attaches=[AttachRequest()])
    keeper = await spawner.spawn(request, attach_fds=[client], on_event=note)   # StartError
    await keeper.exec(ExecRequest("e1", process))
    await keeper.signal(signal.SIGTERM)
    await keeper.wait_closed()               # note(Exited(code=…)) has been called

    keeper = await Keeper.connect(run_dir, note)     # another daemon, later; KeeperGone
    read_state(run_dir)                              # what the keeper recorded last

The specification is the OCI runtime specification's ``config.json`` as a dictionary
(:func:`.spec.default_spec` makes Docker's default one).  :mod:`.guard` keeps forked children from
importing or opening anything once they are inside a container.
"""
