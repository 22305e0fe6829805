"""Layers shared by several packages."""
