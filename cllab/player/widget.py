"""The player as a Jupyter widget."""

import anywidget
import traitlets

from cllab.player import script, style
from cllab.player.schema import validate_trace


class Player(anywidget.AnyWidget):
    """Plays a trace under a notebook cell: `Player(herding_trace(...))`.

    trace     a trace of `cllab.player.traces`; raises like `validate_trace`. It may be replaced later
    step      the step shown, counted from 0; follows the person on pause, step and release, and may be set
    query     the query point [x, y] of a herding trace, or []; likewise
    autoplay  start to play at once, unless the person prefers reduced motion
    """

    _esm = script()
    _css = style()
    trace = traitlets.Dict().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    query = traitlets.List().tag(sync=True)
    autoplay = traitlets.Bool(False).tag(sync=True)

    def __init__(self, trace: dict, step: int = 0, query: list[float] | None = None, autoplay: bool = False):
        super().__init__(trace=validate_trace(trace), step=step, query=query or [], autoplay=autoplay)

    @traitlets.validate("trace")
    def _valid_trace(self, proposal):
        return validate_trace(proposal["value"])

    def __repr__(self) -> str:
        # Without an address, so that an executed lesson compares equal.
        return f"Player(kind={self.trace['kind']!r}, steps={len(self.trace['steps'])})"
