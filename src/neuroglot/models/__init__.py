"""Open a model, and where its neurons are."""
