"""The run directory, and one file for each step that a command does in it. Nothing here prints."""
