"""What breaks when neurons are switched off: which language, and how selectively."""
