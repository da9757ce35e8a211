"""What a classifier of two features answers at every place of the plane."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from cllab import checks
from cllab.plots.palette import INK, on_white, task_colour, task_marker


def draw_boundary(
    ax: Axes,
    predict: Callable[[Tensor], ArrayLike],
    points: ArrayLike,
    labels: ArrayLike,
    extent: Sequence[float],
    resolution: int = 200,
    class_names: Sequence[str] | None = None,
) -> None:
    """Colour the plane by the predicted class and draw labelled points over it.

    predict      function from a float32 tensor [M, 2] to M class labels (whole numbers from 0)
    points       [N, 2] and `labels` [N]: what to draw on top, each class with its colour and marker
    extent       (x0, x1, y0, y1), the part of the plane to show, in units of the features
    resolution   cells per side
    class_names  names by class label for legend and regions; default "class 0", "class 1", ...

    A region is named at the cell that is farthest from its border. ValueError for wrong shapes and an empty
    extent.
    """
    x0, x1, y0, y1 = _extent(extent)
    n = checks.integer("resolution", resolution, 2)
    points, labels = _points(points, labels)
    cells = _predict_grid(predict, (x0, x1, y0, y1), n)
    present = sorted({*cells.flat, *labels})
    names = {c: class_names[c] if class_names is not None else f"class {c}" for c in present}
    on_white(ax)
    pale = ListedColormap([0.72 + 0.28 * np.array(to_rgb(task_colour(c))) for c in range(max(present) + 1)])
    ax.imshow(
        cells,
        origin="lower",
        extent=(x0, x1, y0, y1),
        cmap=pale,
        vmin=-0.5,
        vmax=max(present) + 0.5,
        aspect="equal",
    )
    for c in np.unique(cells):
        _draw_region(ax, cells == c, (x0, x1, y0, y1), names[c])
    for c in np.unique(labels):
        style = {"color": task_colour(c), "marker": task_marker(c), "edgecolor": "white", "linewidth": 0.5}
        ax.scatter(*points[labels == c].T, s=26, label=names[c], zorder=3, **style)
    ax.set_xlim(x0, x1)
    ax.set_ylim(y0, y1)
    ax.set_xlabel("feature 1")
    ax.set_ylabel("feature 2")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False, title="points of")


def _predict_grid(predict: Callable[[Tensor], ArrayLike], extent: tuple, n: int) -> np.ndarray:
    """Predicted class [n, n], row 0 at the bottom, asked at the centres of the cells."""
    x0, x1, y0, y1 = extent
    middle = (torch.arange(n) + 0.5) / n
    y, x = torch.meshgrid(y0 + (y1 - y0) * middle, x0 + (x1 - x0) * middle, indexing="ij")
    answer = predict(torch.stack([x.flatten(), y.flatten()], dim=1))  # [n*n, 2] -> [n*n]
    return _classes("predict", answer, n * n).reshape(n, n)


def _draw_region(ax: Axes, inside: np.ndarray, extent: tuple, name: str) -> None:
    x0, x1, y0, y1 = extent
    rows, columns = inside.shape
    if not inside.all():
        ax.contour(inside, levels=[0.5], colors=INK, linewidths=0.8, extent=extent)
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    i, j = np.unravel_index(depth.argmax(), depth.shape)
    place = (x0 + (x1 - x0) * (j + 0.5) / columns, y0 + (y1 - y0) * (i + 0.5) / rows)
    halo = [withStroke(linewidth=3, foreground="white")]
    ax.text(*place, name, ha="center", va="center", fontsize=9, color=INK, path_effects=halo, zorder=4)


def _extent(extent: Sequence[float]) -> tuple[float, float, float, float]:
    given = checks.real_numbers("extent", extent)
    if given.shape != (4,) or not np.isfinite(given).all() or given[0] >= given[1] or given[2] >= given[3]:
        raise ValueError(f"extent must be (x0, x1, y0, y1) with x0 < x1 and y0 < y1, got {extent!r}")
    return tuple(given.tolist())


def _points(points: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    points = checks.real_numbers("points", points)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite numbers of shape [N, 2], got shape {points.shape}")
    return points, _classes("labels", labels, len(points))


def _classes(name: str, value: ArrayLike, length: int) -> np.ndarray:
    classes = checks.real_numbers(name, value)
    if classes.shape != (length,) or (classes < 0).any() or (classes != classes.round()).any():
        raise ValueError(f"{name} must give {length} class labels, whole numbers from 0, got shape {classes.shape}")
    return classes.astype(int)
