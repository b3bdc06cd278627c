"""Tags, families and scripts of languages, and which language a text is in."""
