"""Where shards are recorded: this process, further ones of this machine, or workers of a Ray cluster."""
