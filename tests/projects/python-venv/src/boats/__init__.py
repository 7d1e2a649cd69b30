"""Boats."""
