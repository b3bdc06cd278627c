"""Language confusion prevented: candidates, what each brings and costs, and the best of them."""
