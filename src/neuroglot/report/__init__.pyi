"""Pages, figures and tables of a run, for people to look at."""

from neuroglot.report.evolution import evolution_report as evolution_report
from neuroglot.report.page import report as report
