"""Benchmarks through EleutherAI's lm-evaluation-harness, and the project's own small tasks."""
