"""Neurons in groups: partitions into experts, how often each language activates them, and which to keep."""

from neuroglot.artifacts.partition import Partition as Partition
from neuroglot.experts.frequency import counts as counts
from neuroglot.experts.frequency import frequencies as frequencies
from neuroglot.experts.frequency import high_frequency as high_frequency
from neuroglot.experts.frequency import high_threshold as high_threshold
from neuroglot.experts.frequency import shared as shared
from neuroglot.experts.frequency import tuning_change as tuning_change
from neuroglot.experts.keep import keep_budget as keep_budget
from neuroglot.experts.keep import keep_random as keep_random
from neuroglot.experts.keep import keep_share as keep_share
from neuroglot.experts.keep import keep_threshold as keep_threshold
from neuroglot.experts.keep import salience as salience
from neuroglot.experts.kmeans import balanced_kmeans as balanced_kmeans
from neuroglot.experts.kmeans import inertia as inertia
from neuroglot.experts.moefication import partition as partition
from neuroglot.experts.moefication import reorder as reorder
from neuroglot.experts.moefy import moefy as moefy
from neuroglot.experts.routing import routing_divergence as routing_divergence
from neuroglot.experts.routing import routing_divergence_interval as routing_divergence_interval
from neuroglot.experts.routing import routing_layers as routing_layers
from neuroglot.experts.routing import routing_shares as routing_shares
from neuroglot.experts.similarity import Similarity as Similarity
from neuroglot.experts.similarity import compare as compare
from neuroglot.languages.genealogy import relatedness as relatedness
from neuroglot.stats import linkage as linkage
from neuroglot.stats import mantel as mantel
