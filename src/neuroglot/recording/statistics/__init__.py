"""What is reduced in the pass: one statistic a file, over plain reductions and their kernels."""
