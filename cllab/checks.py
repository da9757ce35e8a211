"""What public functions ask of their arguments; every message names the argument and what was given."""

import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor


def integer(name: str, value, low: int, high: int | None = None) -> int:
    """`value` as an int in [low, high]; TypeError for anything that is not a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return int(value)


def number(name: str, value, low: float, high: float = math.inf) -> float:
    """`value` as a finite float in [low, high]; TypeError for anything that is not a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:  # an integer beyond the floats
        result = math.inf
    if not math.isfinite(result) or not low <= result <= high:
        allowed = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"{name} must be finite and {allowed}, got {value}")
    return result


def positive(name: str, value) -> float:
    """`value` as a finite float above 0."""
    result = number(name, value, 0.0)
    if result == 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    return result


def choice(name: str, value, allowed: tuple[str, ...]) -> str:
    """`value` if it is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def flag(name: str, value) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def generator(name: str, value) -> torch.Generator:
    """`value` if it is a torch.Generator: nothing is drawn from the global one."""
    if not isinstance(value, torch.Generator):
        raise TypeError(f"{name} must be a torch.Generator, got {type(value).__name__}")
    return value


def floats(name: str, value, ndim: int | None = None, allow_empty: bool = False) -> Tensor:
    """`value` if it is a finite floating-point tensor with `ndim` dimensions (any number when None)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {value.dtype}")
    _shape(name, value, ndim, allow_empty)
    # The extremes are NaN if any entry is; unlike isfinite(value) they need no second array of that size.
    if value.numel() and not all(math.isfinite(extreme) for extreme in value.detach().aminmax()):
        raise ValueError(f"{name} must be finite, got NaN or infinity in {_where(~torch.isfinite(value))}")
    return value


def alike(**tensors: Tensor) -> None:
    """Raise unless all are finite floating-point tensors of the first one's shape; the keywords name them."""
    names = list(tensors)
    for name, value in tensors.items():
        floats(name, value, allow_empty=True)
        if value.shape != tensors[names[0]].shape:
            shape = tuple(tensors[names[0]].shape)
            raise ValueError(f"{name} must have the shape {shape} of {names[0]}, got {tuple(value.shape)}")


def labels(name: str, value, n: int | None = None, n_classes: int | None = None) -> Tensor:
    """`value` if it is an int64 vector of class labels, of length `n` and below `n_classes` where given."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype != torch.int64:
        raise TypeError(f"{name} must be int64 class labels, got {value.dtype}")
    _shape(name, value, 1, allow_empty=False)
    if n is not None and len(value) != n:
        raise ValueError(f"{name} must have one label per row: {n} rows, got {len(value)} labels")
    if int(value.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {int(value.min())}")
    if n_classes is not None and int(value.max()) >= n_classes:
        raise ValueError(f"{name} must be below the number of classes {n_classes}, got {int(value.max())}")
    return value


def real_numbers(name: str, value) -> np.ndarray:
    """The numbers in `value` (number, nested lists, array, tensor) as a new float64 array; NaN is allowed."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be rectangular, every row of the same length") from error
    leaves = np.array(value, dtype=object).flat if isinstance(value, (list, tuple)) else ()
    mixed = any(isinstance(leaf, (bool, np.bool_)) for leaf in leaves)
    if array.dtype.kind not in "iuf" or mixed:
        given = "booleans among the numbers" if mixed else f"{type(value).__name__} of {array.dtype}"
        raise TypeError(f"{name} must hold real numbers, got {given}")
    return array.astype(np.float64)


def fractions(name: str, value) -> np.ndarray:
    """The numbers of `value` as a new float64 array, all in [0, 1] or NaN."""
    array = real_numbers(name, value)
    outside = (array < 0) | (array > 1)
    if outside.any():
        first = tuple(int(i) for i in np.argwhere(outside)[0])
        where = f"{name}{list(first)}" if first else name
        raise ValueError(f"{where} must lie in [0, 1], got {array[first]:g} (percentages? divide by 100)")
    return array


def _shape(name: str, value: Tensor, ndim: int | None, allow_empty: bool) -> None:
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got shape {tuple(value.shape)}")
    if not allow_empty and value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")


def _where(bad: Tensor) -> str:
    first = bad.nonzero()[0].tolist()
    return f"entry {first} ({int(bad.sum())} in all)"
