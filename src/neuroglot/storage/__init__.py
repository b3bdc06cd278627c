"""Files that are whole or absent, and digests that name what is in them."""
