"""Text by language.

A `Corpus` maps each language to its documents. A *parallel* corpus is made of samples, each one meaning in several
languages, and keeps that alignment. Everything is read through the `datasets` library: memory-mapped from local
files, streamed from the Hugging Face hub. Which layouts are understood is said at `load_corpus`."""

from neuroglot.corpus.corpus import Corpus as Corpus
from neuroglot.corpus.corpus import Documents as Documents
from neuroglot.corpus.load import load_corpus as load_corpus
from neuroglot.corpus.prompts import answer_in as answer_in
from neuroglot.corpus.prompts import asking as asking
from neuroglot.corpus.prompts import prompted as prompted
