"""The trace of generations: what it holds, and every way in which one is refused."""

import copy

import pytest
import torch

from cllab.player import generations_trace, image_digits, validate_trace


def drift(**changes) -> dict:
    """Two panels and two steps, with one of everything."""
    cloud = {
        "points": [[0.123456, 1.0, 0]], "ellipses": [[0, 0, 1.0, 0.5, 1.0, 1]], "arrows": [[0, 0, 1, 1, 1]],
    }  # fmt: skip
    picture = {"images": [["0" * 63 + "f", 0, 1]]}
    given = {
        "panels": [{"name": "plane", "extent": [-1, 1, -1, 1]}, {"name": "images"}],
        "steps": [{"x": t, "text": f"generation {t}", "panels": [cloud, picture]} for t in (0, 1)],
        "classes": ["a", "b"], "lines": [{"name": "left", "values": [1.0, None]}],
    }  # fmt: skip
    return generations_trace(**{**given, **changes})


def test_it_is_a_valid_trace_with_all_parts_filled_in():
    trace = validate_trace(drift())
    assert trace["steps"][0]["panels"][0]["points"] == [[0.1235, 1.0, 0]]
    assert trace["steps"][0]["panels"][0]["images"] == [] == trace["steps"][0]["panels"][1]["arrows"]
    assert trace["panels"][1]["extent"] is None
    assert trace["lines"][0] == {"about": "", "colour": 0, "dash": 0, "name": "left", "values": [1.0, None]}
    assert "2 steps of drift" in trace["alt"]


def test_pixels_as_digits():
    image = torch.zeros(64)
    image[0], image[1], image[63] = 1.0, 0.4, 7.0
    assert image_digits(image) == "f6" + "0" * 61 + "f"
    with pytest.raises(ValueError, match="64 pixels, got 9"):
        image_digits(torch.zeros(9))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"panels": []}, "panels must be one or two"), ({"steps": []}, "steps must hold"),
        ({"lines": [{"name": "x", "values": [1]}]}, r"lines\[0\]"),
        ({"steps": [{"x": 0, "text": "", "panels": [{}]}]}, r"steps\[0\]\['panels'\] must be 2"),
        ({"steps": [{"x": 0, "text": "", "panels": [{"dots": []}, {}]}], "lines": []}, "dots"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        drift(**change)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda t: t["lines"][0]["values"].pop(), r"lines'\]\[0\]\['values"),
        (lambda t: t["steps"][1]["panels"].pop(), "panels"),
        (lambda t: t["steps"][1]["panels"][0].pop("arrows"), "lacks 'arrows'"),
        (lambda t: t["steps"][1]["panels"][0]["points"][0].pop(), "a row of points"),
        (lambda t: t["steps"][1]["panels"][0]["arrows"][0].__setitem__(4, 2), "classes below 2"),
        (lambda t: t["steps"][1]["panels"][1]["images"][0].__setitem__(0, "ff"), "64 hexadecimal digits"),
        (lambda t: t.pop("x_label"), "x_label"),
    ],
)  # fmt: skip
def test_a_spoilt_trace_is_refused(spoil, named):
    trace = copy.deepcopy(drift())
    spoil(trace)
    with pytest.raises(ValueError, match=named):
        validate_trace(trace)
