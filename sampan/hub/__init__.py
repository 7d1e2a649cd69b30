"""A registry of our own."""
