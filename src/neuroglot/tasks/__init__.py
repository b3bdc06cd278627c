"""Benchmark tasks of ours, as definitions (YAML) of EleutherAI's lm-evaluation-harness, and the data that they read.

`data.py` reads the hub or local JSON lines. `smoke/` holds small sets in the benchmarks' schemas that only show that
the path works: they are nobody's benchmark, and every one of their tasks is named `smoke_…`.
"""
