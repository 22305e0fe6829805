"""Runs: put together, trained, kept in a folder, and used again."""
