"""Values in, figures and sentences out. Nothing here opens a run."""

from neuroglot.figures.alignment import agreement_figure as agreement_figure
from neuroglot.figures.alignment import dominance_figure as dominance_figure
from neuroglot.figures.alignment import evolution_figure as evolution_figure
from neuroglot.figures.alignment import region_layers_figure as region_layers_figure
from neuroglot.figures.alignment import score_figure as score_figure
from neuroglot.figures.alignment import ses_figure as ses_figure
from neuroglot.figures.alignment import similarity_figure as similarity_figure
from neuroglot.figures.alignment import sizes_figure as sizes_figure
from neuroglot.figures.comparison import budget_figure as budget_figure
from neuroglot.figures.comparison import curve_figure as curve_figure
from neuroglot.figures.comparison import matrices_figure as matrices_figure
from neuroglot.figures.comparison import text_figure as text_figure
from neuroglot.figures.experts import change_figure as change_figure
from neuroglot.figures.experts import expert_similarity_figure as expert_similarity_figure
from neuroglot.figures.experts import pattern_figure as pattern_figure
from neuroglot.figures.experts import shared_figure as shared_figure
from neuroglot.figures.lens import lens_curve_figure as lens_curve_figure
from neuroglot.figures.lens import lens_figure as lens_figure
from neuroglot.figures.neurons import layer_figure as layer_figure
from neuroglot.figures.neurons import overlap_figure as overlap_figure
from neuroglot.figures.neurons import perturbation_figure as perturbation_figure
from neuroglot.figures.papers import growth_figure as growth_figure
from neuroglot.figures.papers import region_figure as region_figure
from neuroglot.figures.papers import share_figure as share_figure
from neuroglot.figures.steering import forcing_figure as forcing_figure
from neuroglot.figures.style import save_figure as save_figure
