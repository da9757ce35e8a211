"""Family 2: keep old tasks by holding on to the weights that mattered."""

from cllab.regularization.ewc import EWC, Anchor, proximal_step, quadratic_penalty
from cllab.regularization.fisher import fisher_diagonal

__all__ = ["EWC", "Anchor", "fisher_diagonal", "proximal_step", "quadratic_penalty"]
