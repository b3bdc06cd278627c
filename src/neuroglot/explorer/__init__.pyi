"""A run in the browser: an atlas of its neurons, a lab to press buttons in, matrices, alignment, pruning."""

from neuroglot.explorer.app import build as build
from neuroglot.explorer.app import explore as explore
