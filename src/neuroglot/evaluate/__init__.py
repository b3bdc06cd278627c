"""What a model can do, intact or changed: perplexity by language, and what switching neurons off does to it."""

from neuroglot.evaluate.generation import beginnings, continuations, generate
from neuroglot.evaluate.perplexity import perplexity
from neuroglot.evaluate.perturbation import Perturbation, perturb
from neuroglot.evaluate.pruning import measure_pruning, pruning_table
from neuroglot.evaluate.samples import sample_perplexity
from neuroglot.evaluate.task_changes import Change, TaskTable, measure_tasks
from neuroglot.evaluate.tasks import TaskScore, tasks

__all__ = [
    "Change",
    "Perturbation",
    "TaskScore",
    "TaskTable",
    "beginnings",
    "continuations",
    "generate",
    "measure_pruning",
    "measure_tasks",
    "perplexity",
    "perturb",
    "pruning_table",
    "sample_perplexity",
    "tasks",
]
