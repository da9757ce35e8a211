"""Family 1: keep old tasks by training on a few of their samples again."""

from cllab.replay.er import ExperienceReplay
from cllab.replay.herding import HerdingStep, herding, herding_steps, nearest_class_mean
from cllab.replay.reservoir import Reservoir, reservoir_slots

__all__ = [
    "ExperienceReplay", "HerdingStep", "Reservoir", "herding", "herding_steps", "nearest_class_mean",
    "reservoir_slots",
]  # fmt: skip
