"""Runs: building, training, saving, loading and evaluating them."""
