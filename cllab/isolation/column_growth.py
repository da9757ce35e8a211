"""What progressive columns cost: parameters that grow with the square of their number, and ever longer answers.

With column k = 0, 1, ... reading the k columns before it, K columns have K(K-1)/2 pairs to connect:

    parameters    K sum_i (n_{i-1} + 1) n_i  +  K(K-1)/2 sum_{i>1} n_{i-1} n_i                   linear laterals
                  K sum_i (n_{i-1} + 1) n_i  +  sum_{i>1} m (K(K-1)/2 n_{i-1} + (K-1) n_i)       adapters of width m

Symbols: n_0 = D features, n_1 .. n_L the widths of the layers, the last is C. No lateral has a bias, and none enters
the first layer. Adapters are smaller, and grow with K^2 all the same: they narrow what they read, but read all of it.
Source: counting the equations of Rusu et al. 2016. Worked numbers: 784-100-100-10 has 89,610 parameters in one column
and 558,050 in five with linear laterals, 496,850 with adapters of width 20 (and 20 scalars alpha).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from cllab import checks
from cllab.models import MAX_WIDTH

LATERALS = ("linear", "adapter", "none")


class ColumnGrowth(NamedTuple):
    """Parameters of all columns, of all laterals (U and V), the scalars alpha of adapters, and all three together.

    Published counts leave the scalars out: those are columns + laterals.
    """

    columns: int
    laterals: int
    scalars: int
    total: int


def column_growth(
    sizes: Sequence[int], n_columns: int, laterals: str = "linear", width: int | None = None
) -> ColumnGrowth:
    """The parameters of `n_columns` columns with layers from sizes[i] to sizes[i + 1].

    sizes: D, the hidden widths, C. laterals and width: as for `ProgressiveNet`.
    """
    K = checks.integer("n_columns", n_columns, 1)
    layers = layer_sizes(sizes, laterals, width)
    pairs, above = K * (K - 1) // 2, layers[1:]
    columns = K * sum((n + 1) * out for n, out in layers)
    lateral, scalars = 0, 0
    if laterals == "linear":
        # U^(k:j) [out, n] for every pair j < k
        lateral = pairs * sum(n * out for n, out in above)
    elif laterals == "adapter":
        # V^(k) [m, k n], U^(k) [out, m] and k scalars for every k > 0
        lateral = sum((width or n) * (pairs * n + (K - 1) * out) for n, out in above)
        scalars = pairs * len(above)
    return ColumnGrowth(columns, lateral, scalars, columns + lateral + scalars)


def column_cost(sizes: Sequence[int], k: int, laterals: str = "linear", width: int | None = None) -> int:
    """Multiplications by weights to answer one row with column k, the first being 0.

    The hidden layers of columns 0 .. k run with their laterals, and the last layer of column k. Without laterals
    column k runs alone.
    """
    checks.integer("k", k, 0)
    layers = layer_sizes(sizes, laterals, width)
    if laterals == "none":
        return sum(n * out for n, out in layers)
    running = [range(k + 1)] * (len(layers) - 1) + [range(k, k + 1)]  # columns that run each layer
    cost = 0
    for i, ((n, out), columns) in enumerate(zip(layers, running, strict=True)):
        for column in columns:
            cost += n * out
            if i > 0 and column > 0:
                cost += column * n * out if laterals == "linear" else (width or n) * (column * n + out)
    return cost


def layer_sizes(sizes: Sequence[int], laterals: str, width: int | None) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer; ValueError or TypeError for settings that make no column."""
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(sizes) < 2:
        raise TypeError(f"sizes must be a list: features, hidden widths, classes; got {sizes!r}")
    sizes = [checks.integer("each of sizes", size, 1, MAX_WIDTH) for size in sizes]
    checks.choice("laterals", laterals, LATERALS)
    if width is not None:
        if laterals != "adapter":
            raise ValueError(f'width must be None with laterals="{laterals}": only adapters have a width, got {width}')
        checks.integer("width", width, 1, MAX_WIDTH)
    return list(itertools.pairwise(sizes))
