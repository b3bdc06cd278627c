"""Values in, figures and sentences out. Nothing here opens a run.

Every figure is one call, `neuroglot.figures.NAME_figure(value)`, that returns a matplotlib figure. With `ax`, an axes
of a grid such as `plt.subplots` makes, it is drawn in that axes' place, which it takes, and the figure is yours.
"""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
