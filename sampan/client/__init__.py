"""The Python library over the daemon's socket."""
