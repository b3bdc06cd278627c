"""One pass over the text, reduced to a value: `record` makes a `Recording`, `record_samples` makes `Samples`."""

from neuroglot.artifacts.examples import Context as Context
from neuroglot.artifacts.examples import Example as Example
from neuroglot.artifacts.examples import Examples as Examples
from neuroglot.artifacts.examples import context as context
from neuroglot.artifacts.provenance import Provenance as Provenance
from neuroglot.artifacts.recording import EXPERTS as EXPERTS
from neuroglot.artifacts.recording import Recording as Recording
from neuroglot.artifacts.samples import Samples as Samples
from neuroglot.recording.engines.local import Engine as Engine
from neuroglot.recording.engines.ray_cluster import RayEngine as RayEngine
from neuroglot.recording.forecast import Footprint as Footprint
from neuroglot.recording.forecast import Forecast as Forecast
from neuroglot.recording.forecast import forecast as forecast
from neuroglot.recording.record_samples import record_samples as record_samples
from neuroglot.recording.recorder import record as record
from neuroglot.recording.settings import RecordSettings as RecordSettings
from neuroglot.recording.shard_store import merge as merge
from neuroglot.recording.statistics.experts import Experts as Experts
from neuroglot.recording.statistics.own import statistic as statistic
from neuroglot.recording.statistics.sums import STATISTICS as STATISTICS
from neuroglot.recording.statistics.sums import Statistic as Statistic
from neuroglot.tokens.random_text import with_random_tokens as with_random_tokens

# names of earlier scripts
Ray = RayEngine
