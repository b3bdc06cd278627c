"""Where shards are recorded: this process, or workers of a Ray cluster."""
