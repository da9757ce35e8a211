"""Family 1: keep old tasks by training on a few of their samples again."""

from cllab.replay.balanced import ClassBalanced, balanced_slots, class_quotas
from cllab.replay.cbrs import ClassBalancedReservoir, cbrs_slots
from cllab.replay.der import DarkExperienceReplay, dark_loss
from cllab.replay.diversity import DiversityStep, diversity_steps
from cllab.replay.er import ExperienceReplay, replay_weight
from cllab.replay.er_ace import ERACE, asymmetric_cross_entropy
from cllab.replay.gdumb import GDumb, GreedyBalanced, greedy_slots
from cllab.replay.generative import GenerativeReplay
from cllab.replay.gmm import ClassGaussians, expected_shrink, gaussian, refit_variances
from cllab.replay.herding import (
    HerdingStep,
    class_means,
    herding,
    herding_steps,
    mean_distances,
    nearest_class_mean,
    quota,
    unit_rows,
)
from cllab.replay.icarl import ICaRL, ICaRLLoss, first_of_each, icarl_loss, icarl_targets
from cllab.replay.k_center import KCenterStep, k_center_steps
from cllab.replay.latent import LatentReplay, latent_age, latents
from cllab.replay.memory import Memory, balanced_rows
from cllab.replay.mir import MIR, interference, virtual_step
from cllab.replay.reservoir import Reservoir, reservoir_slots
from cllab.replay.ring import ClassRing, RingBuffer, class_ring_slots, ring_slots
from cllab.replay.selection import STRATEGIES, gradient_norms, select
from cllab.replay.soft_labels import soft_label_loss
from cllab.replay.vae import VAE, kl_divergence, reconstruction_loss

__all__ = [
    "ERACE", "MIR", "STRATEGIES", "VAE", "ClassBalanced", "ClassBalancedReservoir", "ClassGaussians", "ClassRing",
    "DarkExperienceReplay", "DiversityStep", "ExperienceReplay", "GDumb", "GenerativeReplay", "GreedyBalanced",
    "HerdingStep", "ICaRL", "ICaRLLoss", "KCenterStep", "LatentReplay", "Memory", "Reservoir", "RingBuffer",
    "asymmetric_cross_entropy", "balanced_rows", "balanced_slots", "cbrs_slots", "class_means", "class_quotas",
    "class_ring_slots", "dark_loss", "diversity_steps", "expected_shrink", "first_of_each", "gaussian",
    "gradient_norms", "greedy_slots", "herding", "herding_steps", "icarl_loss", "icarl_targets", "interference",
    "k_center_steps", "kl_divergence", "latent_age", "latents", "mean_distances", "nearest_class_mean", "quota",
    "reconstruction_loss", "refit_variances", "replay_weight", "reservoir_slots", "ring_slots", "select",
    "soft_label_loss", "unit_rows", "virtual_step",
]  # fmt: skip
