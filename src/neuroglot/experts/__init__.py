"""Neurons in groups: partitions into experts, how often each language activates them, and which to keep."""

from neuroglot.experts.frequency import counts, frequencies, high_frequency, shared, tuning_change
from neuroglot.experts.keep import keep_budget, keep_random, keep_share, keep_threshold, salience
from neuroglot.experts.kmeans import balanced_kmeans, inertia
from neuroglot.experts.partition import Partition, partition, reorder
from neuroglot.experts.patterns import Similarity, compare, linkage, mantel, relatedness

__all__ = [
    "Partition",
    "Similarity",
    "balanced_kmeans",
    "compare",
    "counts",
    "frequencies",
    "high_frequency",
    "inertia",
    "keep_budget",
    "keep_random",
    "keep_share",
    "keep_threshold",
    "linkage",
    "mantel",
    "partition",
    "relatedness",
    "reorder",
    "salience",
    "shared",
    "tuning_change",
]
