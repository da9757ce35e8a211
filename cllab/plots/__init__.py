"""Still pictures: every function draws data on a Matplotlib Axes it is given, and keeps no state."""

from cllab.plots.boundary import draw_boundary
from cllab.plots.herding import draw_herding
from cllab.plots.matrix import draw_accuracy_matrix, draw_curves
from cllab.plots.palette import SEQUENTIAL, TASK_COLOURS, TASK_COLOURS_DARK, task_colour, task_marker
from cllab.plots.routing import draw_routing
from cllab.plots.still import filmstrip, subplots

__all__ = [
    "SEQUENTIAL",
    "TASK_COLOURS",
    "TASK_COLOURS_DARK",
    "draw_accuracy_matrix",
    "draw_boundary",
    "draw_curves",
    "draw_herding",
    "draw_routing",
    "filmstrip",
    "subplots",
    "task_colour",
    "task_marker",
]
