"""Where the units of an architecture are read and written: the only room that knows architectures."""
