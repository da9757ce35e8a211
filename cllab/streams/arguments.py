"""What the streams ask of their arguments, beyond `cllab.checks`."""

from collections.abc import Sequence, Set
from numbers import Integral

import numpy as np
from torch import Tensor

from cllab import checks

MAX_LABEL = 1_000_000
"""Highest class label: a model has one output per label, so a larger one is a mistake."""


def instance(name: str, value, kind: type):
    """`value` if it is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {value!r:.80} ({type(value).__name__})")
    return value


def class_list(name: str, value) -> list[int]:
    """The class labels in a sequence, set, array or tensor of whole numbers from 0 to MAX_LABEL."""
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, Set)):
        raise TypeError(f"{name} must be a list of class labels such as [0, 1], got {value!r}")
    return [checks.integer(name, label, 0, MAX_LABEL) for label in value]


def row_shape(name: str, value) -> tuple[int, ...]:
    """The shape of one row, (2,) or (1, 28, 28), as a tuple of sizes of at least 1."""
    if not isinstance(value, (tuple, list)) or not all(isinstance(size, Integral) for size in value):
        raise TypeError(f"{name} must be a tuple of sizes such as (2,) or (1, 28, 28), got {value!r}")
    return tuple(checks.integer(name, size, 1) for size in value)
