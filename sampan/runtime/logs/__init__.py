"""A container's kept output: the keeper writes, the daemon reads.

An *entry* is one line of one stream (or a part of a line longer than 16 KiB, *partial*), with the
time at which it was read.  Files rotate by rename: ``log``, ``log.1``, ``log.2`` …
"""

from sampan.runtime.logs.reader import Entry, read

__all__ = ["Entry", "read"]
