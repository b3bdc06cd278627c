"""The tabs of the explorer, one a file."""
