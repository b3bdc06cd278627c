"""What a recording or samples were made with."""

from typing import Any

from pydantic import BaseModel

from neuroglot.artifacts.sums import Own

__all__ = ["Provenance"]


class Provenance(BaseModel, frozen=True):
    """What a recording was made with. Two recordings add only if all of it is the same."""

    model: str
    """The name the model was loaded by."""
    fingerprint: str
    """The digest of its weights."""
    tokenizer: str
    """The digest of its tokenizer."""
    block: int
    """Tokens a block, with BOS; 0 where samples were read whole."""
    partition: str | None = None
    """The digest of the partition whose experts were counted, if any were."""
    own: dict[str, Own] = {}
    """Statistics that somebody registered, by name."""
    dtype: str | None = None
    """The precision of the model, which its fingerprint does not tell; None in a file that does not say."""

    def plain(self) -> dict[str, Any]:
        """As files hold it; what only some recordings have is not named in the others'."""
        return self.model_dump(exclude={name for name in ("own", "dtype") if not getattr(self, name)})

    def differences(self, other: "Provenance") -> list[str]:
        """What differs, in words (the model's name may: the fingerprint decides)."""
        words = {"fingerprint": "model", "tokenizer": "tokenizer", "block": "block size", "partition": "partition",
                 "own": "the code of their own statistics"}  # fmt: skip
        words |= {"dtype": "precision"} if self.dtype and other.dtype else {}
        return [word for field, word in words.items() if getattr(self, field) != getattr(other, field)]
