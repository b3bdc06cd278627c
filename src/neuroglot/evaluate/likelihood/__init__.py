"""How likely text is to a model: perplexity by language."""
