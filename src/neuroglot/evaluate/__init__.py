"""What a model can do, intact or changed: perplexity by language, what switching neurons off does, what it answers."""

from neuroglot.evaluate.answers import degenerate, describe, summary
from neuroglot.evaluate.comparison import Arm, Comparison, measure_arms
from neuroglot.evaluate.forcing import Generation, Steering, deactivated, force, grid, matrix, repair, search
from neuroglot.evaluate.generation import beginnings, continuations, generate
from neuroglot.evaluate.language import Identifier, mixed_script, scripts
from neuroglot.evaluate.perplexity import perplexity
from neuroglot.evaluate.perturbation import Perturbation, perturb
from neuroglot.evaluate.pruning import measure_pruning, pruning_table
from neuroglot.evaluate.samples import sample_perplexity
from neuroglot.evaluate.selectivity import (
    coverage,
    jaccard,
    leads,
    others_effect,
    own_effect,
    relation_correlation,
    selectivity,
)
from neuroglot.evaluate.task_changes import Change, TaskTable, measure_tasks
from neuroglot.evaluate.tasks import TaskScore, tasks

__all__ = [
    "Arm",
    "Change",
    "Comparison",
    "Generation",
    "Identifier",
    "Perturbation",
    "Steering",
    "TaskScore",
    "TaskTable",
    "beginnings",
    "continuations",
    "coverage",
    "deactivated",
    "degenerate",
    "describe",
    "force",
    "generate",
    "grid",
    "jaccard",
    "leads",
    "matrix",
    "measure_arms",
    "measure_pruning",
    "measure_tasks",
    "mixed_script",
    "others_effect",
    "own_effect",
    "perplexity",
    "perturb",
    "pruning_table",
    "relation_correlation",
    "repair",
    "sample_perplexity",
    "scripts",
    "search",
    "selectivity",
    "summary",
    "tasks",
]
