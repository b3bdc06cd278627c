"""The values that steps hand each other: recordings, samples, examples, neurons, partitions, parameters."""
