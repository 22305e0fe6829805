"""Sets of shards: their schema, and reading them from disk or a URL."""
