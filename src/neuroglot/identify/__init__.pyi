"""Which neurons are a language's: each method takes statistics and gives a `NeuronSet`. No model code, no text."""

from neuroglot.identify.control import random_token_control as random_token_control
from neuroglot.identify.key_regions import contributions as contributions
from neuroglot.identify.key_regions import key_regions as key_regions
from neuroglot.identify.lap import lap as lap
from neuroglot.identify.lape import lape as lape
from neuroglot.identify.lape import lave as lave
from neuroglot.identify.margin import margin as margin
from neuroglot.identify.margin import margins as margins
from neuroglot.identify.monolinguality import monolinguality as monolinguality
from neuroglot.identify.parameter_variation import parameter_variation as parameter_variation
from neuroglot.identify.parameter_variation import variation_entropy as variation_entropy
from neuroglot.identify.parameter_variation import variation_rates as variation_rates
from neuroglot.identify.parameter_variation import varied_parameters as varied_parameters
from neuroglot.identify.plnd import plnd as plnd
from neuroglot.identify.random_neurons import random as random
from neuroglot.identify.ranking import METHODS as METHODS
from neuroglot.identify.ranking import RANKINGS as RANKINGS
from neuroglot.identify.ranking import choose as choose
from neuroglot.identify.ranking import rank as rank
from neuroglot.identify.registry import default_choice as default_choice
from neuroglot.identify.registry import method as method
from neuroglot.identify.selection import Evidence as Evidence
from neuroglot.identify.selection import select_top as select_top

# names of earlier scripts
take = select_top
