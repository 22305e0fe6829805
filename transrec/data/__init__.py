"""Data: shards, the content of items, examples, and batches by step number."""
