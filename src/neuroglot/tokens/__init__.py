"""Text into the tokens of fixed shards, on disk."""
