"""A network namespace that the commands of a build share, one after the other.

Making and destroying one for each command costs more than the command: the kernel tears namespaces
down in the background, and the next creation waits for it.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence

from sampan.linux.namespaces import CLONE_NEWNET, unshare
from sampan.runtime.interfaces import Interface, configure_inside, create_host_side


def make_namespace(interfaces: Sequence[Interface]) -> int:
    """A new network namespace with its loopback and ``interfaces`` up, as a descriptor.

    The namespace lives as long as the descriptor or a process in it.  Blocking (a thread of its
    own enters the namespace).  Raises OSError.
    """
    ready: queue.SimpleQueue[int | OSError] = queue.SimpleQueue()
    linked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    finished: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def inside() -> None:
        try:
            unshare(CLONE_NEWNET)
            ready.put(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            ready.put(error)
            return
        if not linked.get():
            return
        try:
            configure_inside(interfaces)
            finished.put(None)
        except OSError as error:
            finished.put(error)

    thread = threading.Thread(target=inside, name="build-netns", daemon=True)
    thread.start()
    fd = ready.get()
    if isinstance(fd, OSError):
        raise fd
    try:
        try:
            for interface in interfaces:
                create_host_side(interface, fd)
        except BaseException:
            linked.put(False)
            raise
        linked.put(True)
        failure = finished.get()
        if failure is not None:
            raise failure
    except BaseException:
        os.close(fd)
        raise
    finally:
        thread.join()
    return fd
