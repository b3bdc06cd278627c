"""One pass over the text, reduced to a value: `record` makes a `Recording`."""

from neuroglot.recording.recorder import record
from neuroglot.recording.recording import Provenance, Recording
from neuroglot.recording.statistics import STATISTICS, Statistic

__all__ = ["STATISTICS", "Provenance", "Recording", "Statistic", "record"]
