"""The command line.

Vocabulary
----------

*command*
    What a user types after ``sampan``: a :class:`~sampan.cli.command.Command` is its words, usage,
    flags and action.  ``cli.commands`` is the table of all, with the module that holds each, so
    that only the one being run is imported.
*session*
    What one invocation has: the global flags, the connection to the daemon, the client's
    configuration (``cli.session``).
*row*
    What ``--format`` sees of one object: fields computed on demand from the API's JSON
    (``cli.rows``), shown as a table (``cli.table``), as JSON, or through a Go template
    (``sampan.gotemplate``).

Exit codes are Docker's: 125 for a bad flag or a container that could not be made, 126 and 127 for
a command that could not be run, 128 plus the signal's number, and 1 for other failures.
"""
