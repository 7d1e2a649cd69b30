"""Bridges, addresses, published ports and names."""
