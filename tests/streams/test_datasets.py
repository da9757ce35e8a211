"""The data sets: what is bundled, what is read from disk, and what is said when it is not there."""

import gzip
import struct

import numpy as np
import pytest
import torch

from cllab.streams import Dataset, Stream, digits, fashion_mnist, icarl_toy, mnist, points, rotated, split


def test_digits_are_real_and_split_once():
    data = digits()
    assert data.x.shape == (1437, 64) and data.x_test.shape == (360, 64)
    assert data.n_classes == 10 and float(data.x.min()) == 0 and float(data.x.max()) == 1
    assert torch.equal(data.y_test.bincount(), digits().y_test.bincount())
    assert (data.y_test.bincount() - 36).abs().max() <= 1


def test_clusters_hold_a_question_that_repeats_with_other_answers():
    data = points("clusters", n=50)
    centres = torch.stack([data.x[data.y == c].mean(dim=0) for c in range(4)])
    assert (centres[0] + centres[2]).norm() < 0.3 and (centres[1] + centres[3]).norm() < 0.3
    assert torch.equal(data.x, points("clusters", n=50).x)
    assert not torch.equal(data.x, points("clusters", n=50, seed=1).x)
    assert not torch.equal(data.x, data.x_test)


@pytest.mark.parametrize("kind", ["moons", "gaussians"])
def test_two_class_toys_are_centred(kind):
    data = points(kind, n=500)
    assert data.n_classes == 2 and data.x.mean(dim=0).norm() < 0.15


def test_icarl_toy_is_the_one_on_paper():
    data = icarl_toy()
    assert data.x[data.y == 0].mean(dim=0).tolist() == pytest.approx([0.8, 0.8])
    assert sorted((data.x[data.y == 1] - 2).tolist()) == sorted(data.x[data.y == 0].tolist())
    assert sorted((-data.x[data.y == 2]).tolist()) == sorted(data.x[data.y == 0].tolist())


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"kind": "spiral"}, ValueError, "kind"), ({"n": 0}, ValueError, "n must"), ({"n": 1.5}, TypeError, "n must"),
        ({"noise": -1}, ValueError, "noise"), ({"noise": float("nan")}, ValueError, "noise"),
        ({"seed": -1}, ValueError, "seed"), ({"seed": "a"}, TypeError, "seed"),
    ],
)  # fmt: skip
def test_points_refuse(arguments, error, named):
    with pytest.raises(error, match=named):
        points(**arguments)


def test_only_and_take():
    data = digits().only([3, 5])
    assert data.classes == [3, 5] and set(data.y_test.tolist()) == {3, 5}
    assert len(data.take(10).y) == 10 and len(data.take(10).y_test) == len(data.y_test)
    with pytest.raises(ValueError, match="classes"):
        digits().only([11])


def test_datasets_refuse_mismatched_tensors():
    x, y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="one label per row"):
        Dataset(x, y[:3], x, y, "d", (6,))
    with pytest.raises(ValueError, match="features"):
        Dataset(x, y, x, y, "d", (2, 2))
    with pytest.raises(TypeError, match="int64"):
        Dataset(x, y.int(), x, y, "d", (6,))


X, Y = torch.zeros(4, 6), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Dataset(X, Y, X, Y, "d", None), TypeError, "shape"),
        (lambda: Dataset(X, Y, X, Y, "d", "ab"), TypeError, "shape"),
        (lambda: Dataset(X, Y, X, Y, "d", 6), TypeError, "shape"),
        (lambda: Dataset(X, Y, X, Y, "d", (6.0,)), TypeError, "shape"),
        (lambda: Dataset(X, Y, X, Y, "d", (-2, -3)), ValueError, "shape"),
        (lambda: icarl_toy().only(None), TypeError, "classes"), (lambda: icarl_toy().only(5), TypeError, "classes"),
        (lambda: icarl_toy().only(["a"]), TypeError, "classes"),
        (lambda: icarl_toy().only("a"), TypeError, "classes"),
        (lambda: icarl_toy().only([True]), TypeError, "classes"),
        (lambda: icarl_toy().only([None]), TypeError, "classes"),
        (lambda: icarl_toy().only([]), ValueError, "classes"),
        (lambda: points(n=10**30), ValueError, "n must"), (lambda: points(noise=1e300), ValueError, "noise"),
        (lambda: mnist(5), TypeError, "root"), (lambda: fashion_mnist([]), TypeError, "root"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, named):
    with pytest.raises(error, match=f"^{named}"):
        make()


def test_a_shape_given_as_a_list_still_rotates():
    data = Dataset(torch.ones(4, 2), Y, torch.ones(4, 2), Y, "d", [2])
    assert data.shape == (2,) and torch.allclose(rotated(data, 2)[1].x, torch.tensor([-1.0, 1.0]))


def test_classes_to_keep_may_be_any_list_of_whole_numbers():
    for classes in ((0, 2), {0, 2}, range(0, 3, 2), torch.tensor([0, 2]), np.array([2, 0])):
        assert icarl_toy().only(classes).classes == [0, 2]


def test_data_sets_and_streams_can_be_compared():
    data, stream = points(n=3), split(points(n=3), 2)
    assert data == data and data != points(n=3)
    assert stream == stream and stream != split(data, 2) and stream[0] != stream[1]


def test_take_more_than_there_is_takes_all():
    assert len(icarl_toy().take(10**30).y) == 15


@pytest.mark.parametrize("member", [Dataset.n_classes, Dataset.classes, Stream.in_features, Stream.task_names])
def test_properties_say_what_they_are(member):
    assert member.__doc__


def write_idx(path, array, compress):
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


def write_folder(folder, compress=False, dot=False):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 20), ("t10k", 5)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        arrays[part] = images, labels
        for kind, array in (("images", images), ("labels", labels)):
            stem = f"{part}-{kind}{'.' if dot else '-'}idx{array.ndim}-ubyte"
            write_idx(folder / (stem + (".gz" if compress else "")), array, compress)
    return arrays


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("load", [mnist, fashion_mnist])
def test_idx_folders_are_read(tmp_path, compress, dot, load):
    arrays = write_folder(tmp_path, compress, dot)
    data = load(tmp_path)
    images, labels = arrays["train"]
    assert data.shape == (1, 28, 28) and data.y.tolist() == labels.tolist()
    assert torch.equal((data.x * 255).round().to(torch.uint8), torch.from_numpy(images.reshape(20, 784)))
    assert data.x_test.shape == (5, 784)


def test_broken_idx_folders_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="root"):
        mnist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="train-images"):
        mnist(tmp_path)
    write_folder(tmp_path)
    whole = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="incomplete"):
        mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"not an idx file")
    with pytest.raises(ValueError, match="not an IDX file"):
        mnist(tmp_path)


def test_offline_without_a_copy_says_what_to_do(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", unreachable)
    with pytest.raises(FileNotFoundError, match=r"root=.*digits"):
        mnist()


@pytest.mark.slow
def test_openml_rows_become_the_usual_split(monkeypatch):
    class Table:
        data = np.tile(np.arange(70_000, dtype=np.float32)[:, None] % 256, (1, 784))
        target = np.array([str(i % 10) for i in range(70_000)])

    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_, **__: Table)
    data = mnist()
    assert len(data.y) == 60_000 and len(data.y_test) == 10_000
    assert float(data.x[300, 0]) == pytest.approx((300 % 256) / 255) and int(data.y[13]) == 3
