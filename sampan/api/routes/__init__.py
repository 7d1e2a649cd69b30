"""One module a noun: routes that turn requests into engine calls and results into answers."""
