"""One pass over the text, reduced to a value: `record` makes a `Recording`, `record_samples` makes `Samples`."""

from neuroglot.recording.experts import EXPERTS, Experts
from neuroglot.recording.recorder import record
from neuroglot.recording.recording import Provenance, Recording
from neuroglot.recording.samples import Samples
from neuroglot.recording.sampling import record_samples
from neuroglot.recording.statistics import STATISTICS, Statistic

__all__ = [
    "EXPERTS",
    "STATISTICS",
    "Experts",
    "Provenance",
    "Recording",
    "Samples",
    "Statistic",
    "record",
    "record_samples",
]
