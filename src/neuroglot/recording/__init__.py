"""One pass over the text, reduced to a value: `record` makes a `Recording`, `record_samples` makes `Samples`."""

from neuroglot.recording.cluster import Ray
from neuroglot.recording.examples import Context, Example, Examples, context
from neuroglot.recording.experts import EXPERTS, Experts
from neuroglot.recording.forecast import Footprint, Forecast, forecast
from neuroglot.recording.recorder import record
from neuroglot.recording.recording import Provenance, Recording
from neuroglot.recording.samples import Samples
from neuroglot.recording.sampling import record_samples
from neuroglot.recording.shard_pass import Engine
from neuroglot.recording.statistics import STATISTICS, Statistic
from neuroglot.recording.store import merge

__all__ = [
    "EXPERTS",
    "STATISTICS",
    "Context",
    "Engine",
    "Example",
    "Examples",
    "Experts",
    "Footprint",
    "Forecast",
    "Provenance",
    "Ray",
    "Recording",
    "Samples",
    "Statistic",
    "context",
    "forecast",
    "merge",
    "record",
    "record_samples",
]
