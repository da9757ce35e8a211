"""The still pictures, held to what they draw: artists and their places, colours and words, not pixels."""

import colorsys
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox

from cllab import plots
from cllab.plots import palette
from cllab.training import Evaluated

R = np.array([[0.80, 0.30, 0.40], [0.90, 0.70, 0.35], [0.70, 0.75, 0.92]])
TOY = [[0, 0], [1, 0], [0, 1], [1, 1], [2, 2], [3, 3], [3, 2], [2, 3], [4, 4], [2, 2]]


@pytest.fixture
def ax():
    return plots.subplots()[1][0, 0]


def herding_step(**changes):
    """Second choice of class A of the toy: (1, 0) and (0, 1) tie, the first is taken."""
    step = {
        "text": "A tie: the lowest index wins.",
        "phase": "herd",
        "class": 0,
        "k": 2,
        "target": [0.6, 0.6],
        "distances": [0.72, 0.52, 0.52, None, 3.92],
        "candidates": [0, 1, 2, 4],
        "tied": [1, 2],
        "chosen": 1,
        "mean": [1, 0.5],
        "class_mean": [0.8, 0.8],
        "error": 0.3606,
        "memory": {"0": [3, 1]},
        "means": {"0": [1, 0.5]},
    }
    return step | changes


def herding_trace(*steps, **changes):
    trace = {
        "kind": "herding",
        "points": TOY,
        "owner": [0] * 5 + [1] * 5,
        "classes": ["A", "B"],
        "steps": list(steps) or [herding_step()],
    }
    return trace | changes


def routing_trace(**changes):
    """Four tokens, three experts, two places each: the third token finds expert 0 full."""
    step = {
        "text": "One of four assignments is dropped.",
        "expert": [[0], [0], [0], [1]],
        "weight": [[0.6], [0.5], [0.7], [0.7]],
        "kept": [[True], [True], [False], [True]],
        "load": [3, 1, 0],
        "importance": [2.0, 1.4, 0.6],
        "dropped": 1,
    }
    trace = {
        "kind": "routing",
        "experts": 3,
        "k": 1,
        "capacity": 2,
        "kinds": ["digit", "letter"],
        "tokens": [{"label": text, "kind": kind} for text, kind in (("7", 0), ("a", 1), ("b", 1), ("9", 0))],
        "steps": [step],
    }
    return trace | changes


def words(ax):
    return [text.get_text() for text in ax.texts]


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def places(ax, label):
    """Data coordinates of the scatter that the legend calls `label`."""
    return next(c for c in ax.collections if c.get_label() == label).get_offsets().data.tolist()


# The palette


def test_colours_are_okabe_ito_and_distinct():
    assert palette.TASK_COLOURS == [
        "#0072B2",
        "#E69F00",
        "#009E73",
        "#CC79A7",
        "#D55E00",
        "#56B4E9",
        "#000000",
    ]
    assert [*palette.TASK_COLOURS[:-1], "#F0E442"] == palette.TASK_COLOURS_DARK
    assert palette.SEQUENTIAL == "cividis"
    lightness = [colorsys.rgb_to_hls(*to_rgb(colour))[1] for colour in palette.TASK_COLOURS]
    assert max(lightness) < 0.75, "readable on white"


def test_colour_and_marker_together_are_unique_for_a_long_stream():
    pairs = [(plots.task_colour(i), plots.task_marker(i)) for i in range(49)]
    assert len(set(pairs)) == 49
    assert pairs[0] == ("#0072B2", "o")
    for bad, error in ((-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="index"):
            plots.task_colour(bad)
        with pytest.raises(error, match="index"):
            plots.task_marker(bad)


def test_drawing_uses_no_pyplot():
    code = "import sys, cllab.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The accuracy matrix


def test_matrix_writes_every_number_where_it_belongs(ax):
    plots.draw_accuracy_matrix(ax, R, ["A", "B", "C"])
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(j, i): f"{R[i, j]:.2f}" for i in range(3) for j in range(3)}
    np.testing.assert_array_equal(ax.images[0].get_array(), R)
    assert ax.images[0].get_clim() == (0, 1)
    assert ax.images[0].get_cmap().name == "cividis"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["A", "B", "C"]
    assert ax.get_ylim() == (2.5, -0.5), "row 0 on top"
    assert "after training" in ax.get_ylabel()
    assert "tested on" in ax.get_xlabel()


def test_matrix_hatches_what_was_not_evaluated_and_frames_the_diagonal(ax):
    plots.draw_accuracy_matrix(ax, np.where(np.tri(3, dtype=bool), R, np.nan))
    assert len(ax.texts) == 6
    hatched = {patch.get_xy() for patch in ax.patches if patch.get_hatch()}
    assert hatched == {(0.5, -0.5), (1.5, -0.5), (1.5, 0.5)}
    framed = {patch.get_xy() for patch in ax.patches if not patch.get_hatch()}
    assert framed == {(-0.5, -0.5), (0.5, 0.5), (1.5, 1.5)}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["task 1", "task 2", "task 3"]


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_numbers_stand_out_from_their_cells(ax):
    values = np.linspace(0, 1, 36).reshape(6, 6)
    plots.draw_accuracy_matrix(ax, values)
    image = ax.images[0]
    for text in ax.texts:
        j, i = text.get_position()
        light, dark = sorted((luminance(image.to_rgba(values[i, j])), luminance(text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, "contrast of WCAG AA"


@pytest.mark.parametrize(("bad", "names", "error", "message"), [
    (R[:2], None, ValueError, "R must be square"),
    (R * 100, None, ValueError, "percentages"),
    (R, ["A", "B"], ValueError, "task_names"),
    ([["a"]], None, TypeError, "R must hold"),
    ([], None, ValueError, "R must be square"),
])  # fmt: skip
def test_bad_matrix(ax, bad, names, error, message):
    with pytest.raises(error, match=message):
        plots.draw_accuracy_matrix(ax, bad, names)


# Curves


def history():
    points = [
        (-1, 0, (0.5, 0.5)),
        (0, 10, (0.8, 0.5)),
        (0, 20, (0.9, 0.4)),
        (1, 30, (0.6, 0.7)),
        (1, 40, (0.5, 0.95)),
    ]
    curve = [Evaluated(task, accuracy, step) for task, step, accuracy in points]
    return SimpleNamespace(task_names=["red and blue", "green and yellow"], curve=curve)


def test_curves_show_every_evaluation(ax):
    plots.draw_curves(ax, history())
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["red and blue", "green and yellow"]
    np.testing.assert_array_equal(
        lines["red and blue"].get_xydata().T, [[0, 10, 20, 30, 40], [0.5, 0.8, 0.9, 0.6, 0.5]]
    )
    np.testing.assert_array_equal(lines["green and yellow"].get_ydata(), [0.5, 0.5, 0.4, 0.7, 0.95])
    assert [line.get_color() for line in lines.values()] == palette.TASK_COLOURS[:2]
    assert [line.get_marker() for line in lines.values()] == palette.TASK_MARKERS[:2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(lines)
    assert "steps" in ax.get_xlabel()
    assert "fraction" in ax.get_ylabel()


def test_curves_shade_the_stretch_of_each_task(ax):
    plots.draw_curves(ax, history())
    bands = [(patch.get_x(), patch.get_width()) for patch in ax.patches]
    assert bands == [(0, 20), (20, 20)]
    assert all(same_color(p.get_facecolor()[:3], c) for p, c in zip(ax.patches, palette.TASK_COLOURS, strict=False))
    assert words(ax) == ["red and blue", "green and yellow"]


def test_long_task_names_become_numbers_above_the_bands(ax):
    long = history()
    long.task_names = ["a very long name of a task", "another very long name of a task"]
    plots.draw_curves(ax, long)
    assert words(ax) == ["1", "2"]


def test_curves_of_an_unfinished_run(ax):
    part = history()
    part.curve = part.curve[:1]
    plots.draw_curves(ax, part)
    assert ax.patches[:] == []
    part.curve = []
    with pytest.raises(ValueError, match="history"):
        plots.draw_curves(ax, part)


# Herding


def test_herding_draws_points_ring_target_and_means(ax):
    plots.draw_herding(ax, herding_trace(), 0)
    assert places(ax, "target") == [[0.6, 0.6]]
    assert places(ax, "chosen now") == [[1, 0]]
    assert places(ax, "tie") == [[0, 1]]
    assert places(ax, "mean of exemplars") == [[1, 0.5]]
    assert places(ax, "class mean") == [[0.8, 0.8]]
    assert places(ax, "class A, in memory") == [[1, 0], [1, 1]]
    assert "class B" not in " ".join(labels(ax)), "class B has not arrived"
    numbers = {tuple(text.xy): text.get_text() for text in ax.texts if text.get_text().isdigit()}
    assert numbers == {(1, 1): "1", (1, 0): "2"}, "place in the herding order"
    assert "error 0.3606" in words(ax)
    assert ax.get_title(loc="left") == "A tie: the lowest index wins."
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 1", "feature 2")


def test_herding_line_between_the_two_means_is_the_error(ax):
    plots.draw_herding(ax, herding_trace(), 0)
    ends = [line.get_xydata().tolist() for line in ax.lines]
    assert [[1, 0.5], [0.8, 0.8]] in ends
    assert math.dist([1, 0.5], [0.8, 0.8]) == pytest.approx(0.3606, abs=5e-5)
    assert all([[0.6, 0.6], TOY[i]] in ends for i in (0, 1, 2, 4)), "from the target to every candidate"


def test_filled_means_in_memory(ax):
    plots.draw_herding(ax, herding_trace(), 0)
    drawn = {c.get_label(): c for c in ax.collections}
    assert same_color(drawn["class A, in memory"].get_facecolor()[0], palette.TASK_COLOURS[0])
    assert same_color(drawn["class A"].get_facecolor()[0], "white")


def test_points_of_two_classes_at_one_place_stand_side_by_side(ax):
    both = herding_step(memory={"0": [4], "1": [9]}, **{"class": None}, target=None, phase="truncate")
    plots.draw_herding(ax, herding_trace(both), 0)
    ax.figure.canvas.draw()
    pixels = {}
    for label in ("class A, in memory", "class B, in memory"):
        artist = next(c for c in ax.collections if c.get_label() == label)
        pixels[label] = artist.get_offset_transform().transform(artist.get_offsets())[0]
    left, right = pixels.values()
    assert right[0] - left[0] == pytest.approx(10 / 72 * ax.figure.dpi)
    assert right[1] == left[1]


def test_data_that_are_gone_are_not_drawn(ax):
    later = herding_step(available=[1], memory={"0": [3]}, **{"class": None}, target=None, phase="arrive")
    plots.draw_herding(ax, herding_trace(later), 0)
    assert set(labels(ax)) == {"class A, in memory", "class B"}
    assert places(ax, "class A, in memory") == [[1, 1]]


def test_nearest_class_mean_step_shows_all_means(ax):
    ncm = herding_step(phase="ncm", means={"0": [1, 1], "1": [3, 3]}, **{"class": None}, target=None)
    plots.draw_herding(ax, herding_trace(ncm), 0)
    assert places(ax, "mean of exemplars, class A") == [[1, 1]]
    assert places(ax, "mean of exemplars, class B") == [[3, 3]]


def test_herding_keeps_its_limits_from_step_to_step():
    trace = herding_trace(herding_step(), herding_step(target=[5, -5]), herding_step(available=[0, 1]))
    _, axes = plots.subplots(1, 3)
    for step, ax in enumerate(axes.flat):
        plots.draw_herding(ax, trace, step)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in axes.flat}) == 1
    x0, x1 = axes[0, 0].get_xlim()
    y0, y1 = axes[0, 0].get_ylim()
    assert x0 < 0 and x1 > 5 and y0 < -5 and y1 > 4


def test_exemplars_with_pictures(ax):
    images = [[float(i)] * 64 for i in range(10)]
    plots.draw_herding(ax, herding_trace(images=images), 0)
    shown = [artist for artist in ax.artists if isinstance(artist, AnnotationBbox)]
    assert [list(box.xy) for box in shown] == [TOY[3], TOY[1]], "herding order, each joined with its point"


@pytest.mark.parametrize(("draw", "good", "other"), [
    (plots.draw_herding, herding_trace(), routing_trace()),
    (plots.draw_routing, routing_trace(), herding_trace()),
])  # fmt: skip
def test_traces_of_the_wrong_kind_and_steps_outside(ax, draw, good, other):
    with pytest.raises(ValueError, match="trace must be of kind"):
        draw(ax, other, 0)
    for bad, error in ((1, ValueError), (-1, ValueError), (0.0, TypeError)):
        with pytest.raises(error, match="step"):
            draw(ax, good, bad)


# Decision boundary


def test_boundary_asks_at_cell_centres_and_colours_by_class(ax):
    asked = []

    def predict(x):
        asked.append(x)
        return (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()

    points, y = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), torch.tensor([0, 3])
    plots.draw_boundary(ax, predict, points, y, (-2, 2, -1, 1), resolution=4)
    assert asked[0].shape == (16, 2)
    assert asked[0].dtype == torch.float32
    assert asked[0][0].tolist() == [-1.5, -0.75]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)
    assert ax.images[0].get_extent() == [-2, 2, -1, 1]
    assert ax.images[0].origin == "lower"
    pale = ax.images[0].to_rgba(np.array([[0]]))[0, 0, :3]
    assert np.linalg.norm(pale - to_rgb(palette.TASK_COLOURS[0])) > 0.5, "paler than the points on it"
    assert places(ax, "class 3") == [[1, 1]]
    assert sorted(words(ax)) == ["class 0", "class 1", "class 2", "class 3"]
    assert [ax.get_xlabel(), ax.get_ylabel()] == ["feature 1", "feature 2"]


def test_boundary_names_classes_inside_their_regions(ax):
    def predict(x):
        return (x.norm(dim=1) > 1).long()

    plots.draw_boundary(ax, predict, np.zeros((1, 2)), [0], (-2, 2, -2, 2), class_names=["inner", "ring"])
    where = {text.get_text(): text.get_position() for text in ax.texts}
    assert math.hypot(*where["inner"]) < 0.1
    assert math.hypot(*where["ring"]) > 1.05, "not in the hole, where the middle of the ring would be"
    assert labels(ax) == ["inner"]


def test_boundary_of_a_classifier_that_knows_one_class(ax):
    plots.draw_boundary(ax, lambda x: np.full(len(x), 2), np.zeros((1, 2)), [0], (0, 1, 0, 1), resolution=5)
    assert words(ax) == ["class 2"]


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"points": np.zeros((3, 3))}, ValueError, "points"),
    ({"points": np.full((3, 2), np.nan)}, ValueError, "points"),
    ({"labels": [0, 1]}, ValueError, "labels"),
    ({"labels": [0, 1, -1]}, ValueError, "labels"),
    ({"labels": [0, 1, 0.5]}, ValueError, "labels"),
    ({"labels": ["a", "b", "c"]}, TypeError, "labels"),
    ({"extent": (0, 1, 0)}, ValueError, "extent"),
    ({"extent": (1, 0, 0, 1)}, ValueError, "extent"),
    ({"extent": (0, math.inf, 0, 1)}, ValueError, "extent"),
    ({"extent": None}, TypeError, "extent"),
    ({"predict": lambda x: x}, ValueError, "predict"),
    ({"predict": lambda x: torch.full((len(x),), math.nan)}, ValueError, "predict"),
    ({"resolution": 1}, ValueError, "resolution"),
])  # fmt: skip
def test_bad_boundary(ax, changes, error, message):
    good = {
        "predict": lambda x: torch.zeros(len(x)),
        "points": np.zeros((3, 2)),
        "labels": [0, 1, 2],
        "extent": (0, 1, 0, 1),
    }
    with pytest.raises(error, match=message):
        plots.draw_boundary(ax, **(good | changes))


# Routing


def test_routing_joins_tokens_with_experts(ax):
    plots.draw_routing(ax, routing_trace(), 0)
    ways = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_label() != "capacity 2"]
    ends = [line.get_ydata()[1] for line in ways]
    assert ends[0] == ends[1] == ends[2] != ends[3]
    kept, dropped = [ways[i] for i in (0, 1, 3)], ways[2]
    assert [line.get_color() for line in kept] == [palette.TASK_COLOURS[e] for e in (0, 0, 1)]
    assert kept[0].get_linewidth() > kept[1].get_linewidth(), "as wide as the weight"
    assert (dropped.get_label(), dropped.get_linestyle(), dropped.get_marker()) == ("dropped", "--", "x")
    assert [text for text in words(ax) if text in ("7", "a", "b", "9")] == ["7", "a", "b", "9"]


def test_routing_bars_share_one_scale(ax):
    plots.draw_routing(ax, routing_trace(), 0)
    widths = [patch.get_width() for patch in ax.patches]  # load, importance of expert 0, then 1, then 2
    np.testing.assert_allclose(np.array(widths) / widths[0] * 3, [3, 2.0, 1, 1.4, 0, 0.6])
    wall = next(line for line in ax.lines if line.get_label() == "capacity 2")
    assert (wall.get_xdata()[0] - ax.patches[0].get_x()) / widths[0] * 3 == pytest.approx(2)
    assert {"digit", "letter", "load", "importance", "dropped", "capacity 2"} == set(labels(ax))


def test_routing_without_a_capacity_has_no_wall(ax):
    plots.draw_routing(ax, routing_trace(capacity=None), 0)
    assert not [label for label in labels(ax) if "capacity" in label]


def test_experts_that_choose_may_serve_a_token_twice_or_not_at_all(ax):
    step = routing_trace()["steps"][0] | {
        "expert": [[0, 1], [], [0], [2]], "weight": [[0.6, 0.3], [], [0.7], [0.2]],
        "kept": [[True, True], [], [True], [True]], "dropped": 0,
    }  # fmt: skip
    plots.draw_routing(ax, routing_trace(steps=[step], choice="expert"), 0)
    ways = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_label() != "capacity 2"]
    assert [line.get_color() for line in ways] == [palette.TASK_COLOURS[e] for e in (0, 1, 0, 2)]
    assert {"0", "1", "2"} <= set(words(ax)), "experts are numbered as in the sentence, from 0"


# Figures


def test_filmstrip_shows_the_steps_asked_for_in_order():
    steps = [herding_step(text=f"Sentence {i}.") for i in range(6)]
    figure = plots.filmstrip(plots.draw_herding, herding_trace(*steps), steps=[5, 0, 2], columns=2)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "6. Sentence 5.",
        "1. Sentence 0.",
        "3. Sentence 2.",
    ]
    assert all(ax.get_legend() is None for ax in figure.axes)
    written = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(written) == len(set(written))
    assert {"target", "chosen now", "class mean"} <= set(written)


def test_filmstrip_takes_all_steps_by_default_and_any_drawing_function():
    seen = []
    trace = routing_trace()
    figure = plots.filmstrip(lambda ax, given, step: seen.append((given is trace, step)), trace)
    assert seen == [(True, 0)]
    assert len(figure.axes) == 1
    assert figure.legends == []


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"steps": []}, ValueError, "steps"),
    ({"steps": [1]}, ValueError, "steps"),
    ({"steps": [-1]}, ValueError, "steps"),
    ({"steps": [0.5]}, TypeError, "steps"),
    ({"columns": 0}, ValueError, "columns"),
])  # fmt: skip
def test_bad_filmstrip(options, error, message):
    with pytest.raises(error, match=message):
        plots.filmstrip(plots.draw_herding, herding_trace(), **options)


def test_figures_are_white_and_show_themselves():
    figure, axes = plots.subplots(2, 3, width=2, height=1)
    assert isinstance(figure, Figure)
    assert axes.shape == (2, 3)
    assert tuple(figure.get_size_inches()) == (6, 2)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure._repr_png_() == figure._repr_png_()


def test_backgrounds_stay_white_under_a_dark_style():
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "black", "figure.facecolor": "black", "axes.labelcolor": "white"}):
        figure = Figure()
        ax = figure.add_subplot()
        plots.draw_accuracy_matrix(ax, R)
    assert same_color(figure.get_facecolor(), "white")
    assert same_color(ax.get_facecolor(), "white")
    assert luminance(ax.xaxis.label.get_color()) < 0.05


def test_traces_of_the_player_can_be_drawn():
    from cllab.player.traces import herding_trace as record
    from cllab.streams import icarl_toy

    toy = icarl_toy()
    trace = record(toy.x, toy.y, capacity=8, stages=[[0, 1], [2]])
    for step, facts in enumerate(trace["steps"]):
        ax = plots.subplots()[1][0, 0]
        plots.draw_herding(ax, trace, step)
        held = sum(len(kept) for kept in facts["memory"].values())
        drawn = [c for c in ax.collections if (m := c.get_facecolor()).size and not same_color(m[0], "white")]
        exemplars = [c for c in drawn if c.get_sizes()[0] == 64]
        assert sum(len(c.get_offsets()) for c in exemplars) == held
