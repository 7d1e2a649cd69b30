"""sampan: a container engine.

An *image* is a program packaged with its runtime environment, a *Dockerfile* is the image's
source, and a *container* is the running process.  ``sampan.connect()`` gives a client of the
daemon; the packages below are described in ``docs/architecture.md``.
"""

__version__ = "0.1.0"
