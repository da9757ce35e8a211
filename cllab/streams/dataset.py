"""Labelled samples with a fixed train/test split, and the real data sets of the course."""

import gzip
import math
import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cllab import checks
from cllab.device import generator
from cllab.streams.arguments import class_list, row_shape

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of features with class labels.

    x, x_test: float [N, D]; images are flattened, `shape` says how to see them again, e.g. (1, 28, 28).
    y, y_test: int64 [N], classes 0 .. n_classes - 1.
    """

    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    x_test: Tensor = field(repr=False)
    y_test: Tensor = field(repr=False)
    name: str
    shape: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "shape", row_shape("shape", self.shape))
        for x, y, what in ((self.x, self.y, ""), (self.x_test, self.y_test, "_test")):
            checks.floats(f"x{what}", x, ndim=2)
            checks.labels(f"y{what}", y, n=len(x))
        if self.x.shape[1] != self.x_test.shape[1] or self.x.shape[1] != math.prod(self.shape):
            raise ValueError(
                f"x {tuple(self.x.shape)}, x_test {tuple(self.x_test.shape)} and shape {self.shape} "
                "must agree on the number of features"
            )

    @property
    def n_classes(self) -> int:
        """Outputs that a model of this data needs: the highest class, plus one."""
        return self.classes[-1] + 1

    @property
    def classes(self) -> list[int]:
        """The classes of the training and test rows, in rising order."""
        return torch.cat([self.y, self.y_test]).unique().tolist()

    def only(self, classes) -> "Dataset":
        """The rows of these classes, labels unchanged."""
        wanted = class_list("classes", classes)
        if not wanted or set(wanted) - set(self.classes):
            raise ValueError(f"classes must be among {self.classes}, got {wanted}")
        train, test = (torch.isin(y, torch.tensor(wanted)) for y in (self.y, self.y_test))
        return replace(self, x=self.x[train], y=self.y[train], x_test=self.x_test[test], y_test=self.y_test[test])

    def take(self, n: int, seed: int = 0) -> "Dataset":
        """At most `n` training rows, drawn without replacement; the test rows stay."""
        n = min(checks.integer("n", n, 1), len(self.y))
        keep = torch.randperm(len(self.y), generator=generator(seed, "take"))[:n]
        return replace(self, x=self.x[keep], y=self.y[keep])


def digits() -> Dataset:
    """scikit-learn's 1,797 real handwritten digits, 8x8 pixels in [0, 1]; 1,437 to train on and 360 to test.

    Bundled with scikit-learn, so no network. Source: Alpaydin & Kaynak, UCI repository, 1998.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(pixels / 16, y, test_size=360, stratify=y, random_state=0)
    return _dataset("digits", x, y, x_test, y_test, (1, 8, 8))


def mnist(root: str | os.PathLike | None = None) -> Dataset:
    """MNIST: 60,000 + 10,000 digits of 28x28 pixels in [0, 1] (LeCun, Bottou, Bengio & Haffner 1998).

    root: a folder with the four IDX files, plain or .gz. Without it, OpenML through scikit-learn, which keeps a
    copy on disk after the first time. Offline without a copy: FileNotFoundError that says what to do.
    """
    return _idx_or_openml("MNIST", root, None, "mnist_784")


def fashion_mnist(root: str | os.PathLike | None = None) -> Dataset:
    """Fashion-MNIST: 60,000 + 10,000 garments of 28x28 pixels in [0, 1] (Xiao, Rasul & Vollgraf 2017).

    root: as for `mnist`. Without it, the folder of Debian's package dataset-fashion-mnist if installed, else OpenML.
    """
    return _idx_or_openml("Fashion-MNIST", root, DEBIAN_FASHION_MNIST, "Fashion-MNIST")


def _dataset(name: str, x, y, x_test, y_test, shape) -> Dataset:
    def rows(a):
        return torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)).flatten(1)

    def classes(a):
        return torch.from_numpy(np.asarray(a).astype(np.int64))

    return Dataset(rows(x), classes(y), rows(x_test), classes(y_test), name, shape)


def _idx_or_openml(name: str, root, installed: Path | None, openml_name: str) -> Dataset:
    if root is None and installed is not None and installed.is_dir():
        root = installed
    if root is None:
        return _openml(name, openml_name)
    if not isinstance(root, (str, os.PathLike)):
        raise TypeError(f"root must be the path of a folder, got {root!r} ({type(root).__name__})")
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"root must be a folder with the IDX files of {name}, got {str(root)!r}")
    x, y = _read_idx(folder, "train-images", 3), _read_idx(folder, "train-labels", 1)
    x_test, y_test = _read_idx(folder, "t10k-images", 3), _read_idx(folder, "t10k-labels", 1)
    return _dataset(name, x / np.float32(255), y, x_test / np.float32(255), y_test, (1, *x.shape[1:]))


def _read_idx(folder: Path, stem: str, ndim: int) -> np.ndarray:
    """One IDX file of unsigned bytes: 2 zero bytes, type 8, the number of dimensions, their sizes, the data."""
    found = sorted(p for p in folder.iterdir() if p.name.replace(".", "-").startswith(f"{stem}-idx{ndim}"))
    if not found:
        raise FileNotFoundError(f"root {str(folder)!r} has no file {stem}-idx{ndim}-ubyte, plain or .gz")
    raw = found[0].read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if raw[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{found[0].name} in root is not an IDX file of bytes with {ndim} dimension(s)")
    shape = struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim])
    data = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * ndim)
    if data.size != int(np.prod(shape)):
        raise ValueError(f"{found[0].name} in root announces {shape} but holds {data.size} bytes: incomplete file?")
    return data.reshape(shape)


def _openml(name: str, openml_name: str) -> Dataset:
    from sklearn.datasets import fetch_openml
    from sklearn.datasets._openml import OpenMLError

    try:
        table = fetch_openml(openml_name, version=1, as_frame=False, parser="liac-arff", n_retries=0)
    except (OSError, OpenMLError) as error:
        raise FileNotFoundError(
            f"{name} is not on this machine and OpenML could not be reached ({error}). Either connect to the "
            "internet once (a copy is then kept on disk), or download the four IDX files and pass their folder as "
            "root=...; digits() works offline."
        ) from error
    x, y = table.data.reshape(-1, 28, 28) / np.float32(255), table.target
    return _dataset(name, x[:60_000], y[:60_000], x[60_000:], y[60_000:], (1, 28, 28))
