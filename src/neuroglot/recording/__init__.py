"""One pass over the text, reduced to a value: `record` makes a `Recording`."""

from neuroglot.recording.experts import EXPERTS, Experts
from neuroglot.recording.recorder import record
from neuroglot.recording.recording import Provenance, Recording
from neuroglot.recording.statistics import STATISTICS, Statistic

__all__ = ["EXPERTS", "STATISTICS", "Experts", "Provenance", "Recording", "Statistic", "record"]
