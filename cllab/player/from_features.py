"""The trace of features that move: where a network puts the same rows while it is trained on one task after another."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from cllab import checks
from cllab.player.schema import VERSION, round_trace

PHASES = ("arrive", "train", "moved", "truncate", "herd", "answer")


class Moment(NamedTuple):
    """One step of the story.

    phase    one of PHASES; text: a sentence with its numbers
    points   [N, 2] where every row lies now
    arrived  classes whose rows are shown
    memory   {class: rows in herding order}; quota m
    means    {class: [2]} of the memory, with the features of now
    before   {class: [2]} the same means as they were computed earlier, where that matters
    answers  {row: class} what a rule answers, where one does
    facts    (name, value) pairs of text to show beside the picture
    """

    phase: str
    text: str
    points: Tensor
    arrived: Sequence[int]
    memory: Mapping[int, Sequence[int]]
    quota: int
    means: Mapping[int, Tensor]
    before: Mapping[int, Tensor] = {}
    answers: Mapping[int, int] = {}
    facts: Sequence[tuple[str, str]] = ()


def features_trace(
    moments: Sequence[Moment],
    owner: Sequence[int],
    role: Sequence[str],
    *,
    capacity: int,
    classes: Sequence[str],
    names: Sequence[str],
    images: Tensor | None = None,
    unit: bool = False,
    title: str = "Features",
    alt: str = "",
) -> dict:
    """A trace of kind "features".

    owner  N class indices; role: N times "test" (shown from the arrival of its class on) or "train" (shown while it
           is in memory); names: N texts; images: [N, 64] pixels from 0 to 16
    unit   the points have length 1: angles decide

    Raises ValueError or TypeError naming the argument.
    """
    n = len(owner)
    for name, given in (("role", role), ("names", names)):
        if len(given) != n:
            raise ValueError(f"{name} must have {n} entries like owner, got {len(given)}")
    for word in role:
        checks.choice("role", word, ("test", "train"))
    if not moments:
        raise ValueError("moments must hold at least one")
    for i, moment in enumerate(moments):
        checks.choice(f"phase of moment {i}", moment.phase, PHASES)
        if checks.floats(f"points of moment {i}", moment.points, 2).shape != (n, 2):
            raise ValueError(f"points of moment {i} must be [{n}, 2], got {tuple(moment.points.shape)}")
    trace = {
        "v": VERSION, "kind": "features", "title": title, "alt": alt or title, "owner": list(owner),
        "role": list(role), "names": list(names), "classes": list(classes), "unit": unit, "capacity": capacity,
        "steps": [moment._asdict() for moment in moments],
    }  # fmt: skip
    if images is not None:
        trace["images"] = images
    return round_trace(trace, 3)
