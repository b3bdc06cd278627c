"""Text by language.

A `Corpus` maps each language to its documents. A *parallel* corpus is made of samples, each one meaning in several
languages, and keeps that alignment. Everything is read through the `datasets` library: memory-mapped from local
files, streamed from the Hugging Face hub. Which layouts are understood is said at `load_corpus`."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
