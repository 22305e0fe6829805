"""Sets of shards: their schema, and readers for disks and URLs."""
