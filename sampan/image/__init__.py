"""OCI image models and layer tars: pure values and functions."""
