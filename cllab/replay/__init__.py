"""Family 1: keep old tasks by training on a few of their samples again."""

from cllab.replay.er import ExperienceReplay
from cllab.replay.herding import (
    HerdingStep,
    class_means,
    herding,
    herding_steps,
    nearest_class_mean,
    quota,
    unit_rows,
)
from cllab.replay.reservoir import Reservoir, reservoir_slots

__all__ = [
    "ExperienceReplay", "HerdingStep", "Reservoir", "class_means", "herding", "herding_steps",
    "nearest_class_mean", "quota", "reservoir_slots", "unit_rows",
]  # fmt: skip
