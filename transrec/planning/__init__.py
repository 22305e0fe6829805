"""Estimates the cost of a run at a size that nobody has run yet, from small runs of the same configuration."""
