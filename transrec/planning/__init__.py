"""The cost of a run at a size that nobody has run, from small runs of the same configuration."""
