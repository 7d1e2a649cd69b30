"""HTTP: each module has ``routes(hub)``, and only turns requests into calls and back."""
