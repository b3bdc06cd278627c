"""What a model can do, intact or changed: perplexity by language, what switching neurons off does, what it answers."""

from neuroglot.edit.conditions import Condition as Condition
from neuroglot.evaluate.ablation.comparison import Ablation as Ablation
from neuroglot.evaluate.ablation.comparison import Comparison as Comparison
from neuroglot.evaluate.ablation.comparison import measure_conditions as measure_conditions
from neuroglot.evaluate.ablation.effect import does_more as does_more
from neuroglot.evaluate.ablation.fallback import fallback as fallback
from neuroglot.evaluate.ablation.matrix import Perturbation as Perturbation
from neuroglot.evaluate.ablation.perturbation import perturb as perturb
from neuroglot.evaluate.ablation.pruning import measure_pruning as measure_pruning
from neuroglot.evaluate.ablation.pruning import pruning_table as pruning_table
from neuroglot.evaluate.ablation.selectivity import coverage as coverage
from neuroglot.evaluate.ablation.selectivity import diagonal_dominant as diagonal_dominant
from neuroglot.evaluate.ablation.selectivity import jaccard as jaccard
from neuroglot.evaluate.ablation.selectivity import off_target_effect as off_target_effect
from neuroglot.evaluate.ablation.selectivity import on_target_effect as on_target_effect
from neuroglot.evaluate.ablation.selectivity import relation_correlation as relation_correlation
from neuroglot.evaluate.ablation.selectivity import selectivity as selectivity
from neuroglot.evaluate.benchmarks.harness import TaskScore as TaskScore
from neuroglot.evaluate.benchmarks.harness import tasks as tasks
from neuroglot.evaluate.benchmarks.table import TaskTable as TaskTable
from neuroglot.evaluate.benchmarks.table import measure_tasks as measure_tasks
from neuroglot.evaluate.fixing.fixing import Fixed as Fixed
from neuroglot.evaluate.fixing.fixing import fix as fix
from neuroglot.evaluate.likelihood.lens import Lens as Lens
from neuroglot.evaluate.likelihood.lens import lens as lens
from neuroglot.evaluate.likelihood.perplexity import block_losses as block_losses
from neuroglot.evaluate.likelihood.perplexity import perplexity as perplexity
from neuroglot.evaluate.likelihood.perplexity import token_losses as token_losses
from neuroglot.evaluate.likelihood.sample_perplexity import sample_perplexity as sample_perplexity
from neuroglot.evaluate.steering.amplification import amplification as amplification
from neuroglot.evaluate.steering.answers import degenerate as degenerate
from neuroglot.evaluate.steering.answers import describe as describe
from neuroglot.evaluate.steering.answers import summary as summary
from neuroglot.evaluate.steering.answers import well_formed as well_formed
from neuroglot.evaluate.steering.candidates import Candidate as Candidate
from neuroglot.evaluate.steering.candidates import alignment_layers as alignment_layers
from neuroglot.evaluate.steering.candidates import candidates as candidates
from neuroglot.evaluate.steering.candidates import grid as grid
from neuroglot.evaluate.steering.clas import read_clas as read_clas
from neuroglot.evaluate.steering.clas import write_clas as write_clas
from neuroglot.evaluate.steering.confusion import LanguageConfusion as LanguageConfusion
from neuroglot.evaluate.steering.confusion import confusion_table as confusion_table
from neuroglot.evaluate.steering.confusion import language_confusion as language_confusion
from neuroglot.evaluate.steering.confusion_points import confusion_points as confusion_points
from neuroglot.evaluate.steering.confusion_points import points_by_layer as points_by_layer
from neuroglot.evaluate.steering.continuations import beginnings as beginnings
from neuroglot.evaluate.steering.continuations import continuations as continuations
from neuroglot.evaluate.steering.forcing import Steering as Steering
from neuroglot.evaluate.steering.forcing import deactivated as deactivated
from neuroglot.evaluate.steering.forcing import force as force
from neuroglot.evaluate.steering.judge import Judge as Judge
from neuroglot.evaluate.steering.judge import JudgeSettings as JudgeSettings
from neuroglot.evaluate.steering.mixing import foreign_words as foreign_words
from neuroglot.evaluate.steering.mixing import mixed_words as mixed_words
from neuroglot.evaluate.steering.refusals import refuses as refuses
from neuroglot.evaluate.steering.relevance import LikelihoodRule as LikelihoodRule
from neuroglot.evaluate.steering.scores import harmonic_mean as harmonic_mean
from neuroglot.evaluate.steering.scores import score_difference as score_difference
from neuroglot.evaluate.steering.scores import steering_scores as steering_scores
from neuroglot.evaluate.steering.search import Found as Found
from neuroglot.evaluate.steering.search import search as search
from neuroglot.evaluate.steering.steering_shift import steering_shift as steering_shift
from neuroglot.evaluate.steering.tables import matrix as matrix
from neuroglot.evaluate.steering.tables import repair as repair
from neuroglot.generation.engine import generate as generate
from neuroglot.generation.settings import Generation as Generation
from neuroglot.languages.detection import LanguageIdentifier as LanguageIdentifier
from neuroglot.languages.detection import mixed_script as mixed_script
from neuroglot.languages.detection import scripts as scripts
from neuroglot.languages.fasttext import FastTextIdentifier as FastTextIdentifier
from neuroglot.stats import Contrast as Contrast
from neuroglot.stats import contrast as contrast
from neuroglot.tokens.counts import TokenLanguages as TokenLanguages
from neuroglot.tokens.counts import token_counts as token_counts

# names of earlier scripts
Arm = Ablation
Change = Condition
Identifier = LanguageIdentifier
leads = diagonal_dominant
measure_arms = measure_conditions
others_effect = off_target_effect
own_effect = on_target_effect
