"""Find, measure and edit the language neurons of an LLM.

corpus ─▶ one forward pass ─▶ Recording ─▶ identify ─▶ NeuronSet ─▶ intervene ─▶ evaluate ─▶ report

The names are in `__init__.pyi`. Importing torch and transformers takes seconds, which `neuroglot --help` should not
wait for, so each name is imported from its home the first time somebody asks for it.
"""

from neuroglot.faces import hand_on

__version__ = "0.1.0"

__all__ = hand_on(__name__)
