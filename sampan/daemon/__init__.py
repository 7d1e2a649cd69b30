"""The composition root: builds the engine from its parts and serves the API."""
