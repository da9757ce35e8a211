"""Family 2: keep old tasks by holding on to the weights, the answers or the gradients that mattered."""

from cllab.regularization.distillation import distillation_loss
from cllab.regularization.ewc import EWC
from cllab.regularization.fisher import fisher_diagonal
from cllab.regularization.gem import AGEM, GEM
from cllab.regularization.lwf import LwF
from cllab.regularization.mas import MAS, output_sensitivity
from cllab.regularization.penalty import Anchor, proximal_step, quadratic_penalty
from cllab.regularization.projection import multipliers, project, project_on_one
from cllab.regularization.rwalk import RWalk, path_score
from cllab.regularization.si import SI, path_importance, path_integral

__all__ = [
    "AGEM", "EWC", "GEM", "MAS", "SI", "Anchor", "LwF", "RWalk", "distillation_loss", "fisher_diagonal", "multipliers",
    "output_sensitivity", "path_importance", "path_integral", "path_score", "project", "project_on_one",
    "proximal_step", "quadratic_penalty",
]  # fmt: skip
