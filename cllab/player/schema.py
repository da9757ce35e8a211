"""What every trace must be: plain, rounded, versioned, complete."""

import math
from collections.abc import Mapping
from numbers import Integral, Real

from cllab.player.schema_columns import check_columns
from cllab.player.schema_growing import check_growing
from cllab.player.schema_lowrank import check_lowrank
from cllab.player.schema_packing import check_packing
from cllab.player.schema_routing import check_routing
from cllab.player.schema_springs import check_springs

VERSION = 1
KEYS = {
    "herding": ("points", "owner", "names", "classes"),
    "routing": ("experts", "k", "capacity", "overflow", "kinds", "tokens"),
    "run": ("tasks", "extent", "grid", "samples", "runs"),
    "features": ("owner", "role", "names", "classes", "unit", "capacity"),
    "memory": ("labels", "classes", "memories"),
    "generations": ("panels", "classes", "lines", "x_label", "y_label"),
    "distillation": ("classes", "series", "panels", "charts", "x_label", "log"),
    "projection": ("gradient", "constraints", "margin", "ridge", "turn", "agem", "gem"),
    "lowrank": ("shows",),
    "columns": ("tasks", "sizes", "laterals", "width", "brightest", "growth", "cost"),
    "packing": ("shows",),
    "growing": ("stages", "kinds", "stage_of", "k", "runs"),
    "springs": ("names", "extent", "lam", "lr", "n", "marks", "contours", "free", "panels"),
}
STEP_KEYS = {
    "herding": (
        "phase", "class", "k", "target", "distances", "candidates", "tied", "chosen", "mean", "class_mean",
        "error", "memory", "capacity", "quota", "means",
    ),
    "routing": ("step", "expert", "weight", "kept", "load", "importance", "dropped", "losses", "accuracy"),
    "run": ("step", "task"),
    "features": ("phase", "points", "arrived", "memory", "quota", "means", "before", "answers", "facts"),
    "memory": ("n", "went", "slots"),
    "generations": ("x", "panels"),
    "distillation": ("x", "panels", "facts"),
    "projection": ("phase",),
    "lowrank": (),
    "columns": ("task", "step", "own", "lateral", "read", "accuracy", "finished", "moved", "maps"),
    "packing": (),
    "growing": ("stage", "step"),
    "springs": ("step",),
}  # fmt: skip


def round_trace(value, digits: int = 4):
    """`value` as plain JSON: floats rounded to `digits`, NaN and infinity as None, tensors as lists.

    Dicts get string keys, tuples become lists. TypeError names the type of anything that JSON cannot hold.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return round_trace(value.tolist(), digits)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        # + 0.0 turns -0.0 into 0.0
        return round(float(value), digits) + 0.0 if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): round_trace(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [round_trace(item, digits) for item in value]
    raise TypeError(f"a trace holds numbers, strings, lists and dicts, got {type(value).__name__}")


def validate_trace(trace: dict) -> dict:
    """`trace` itself when the player can play it; else ValueError or TypeError naming the wrong key."""
    if not isinstance(trace, dict):
        raise TypeError(f"trace must be a dict, got {type(trace).__name__}")
    if trace.get("v") != VERSION:
        raise ValueError(f"trace['v'] must be {VERSION}, got {trace.get('v')!r}")
    kind = trace.get("kind")
    if kind not in KEYS:
        raise ValueError(f"trace['kind'] must be one of {', '.join(KEYS)}, got {kind!r}")
    _has("trace", trace, ("title", "alt", "steps", *KEYS[kind]))
    if not isinstance(trace["steps"], list) or not trace["steps"]:
        raise ValueError("trace['steps'] must be a list of at least one step")
    for i, step in enumerate(trace["steps"]):
        if not isinstance(step, dict):
            raise TypeError(f"trace['steps'][{i}] must be a dict, got {type(step).__name__}")
        _has(f"trace['steps'][{i}]", step, ("text", *STEP_KEYS[kind]))
    _plain("trace", trace)
    {"herding": _herding, "routing": check_routing, "run": _run, "memory": _memory, "features": _features,
     "generations": _generations, "distillation": _distillation, "projection": _projection, "columns": check_columns,
     "lowrank": check_lowrank, "packing": check_packing, "growing": check_growing,
     "springs": check_springs}[kind](trace)  # fmt: skip
    return trace


def _has(name: str, found: dict, keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}")


def _plain(name: str, value) -> None:
    """Plain JSON all through: strings, finite numbers, None, lists, and dicts with string keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name} must have string keys, got {key!r}")
            _plain(f"{name}[{key!r}]", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if type(item) not in (int, str, bool):  # the common case goes without building a name
                _plain(f"{name}[{i}]", item)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    elif value is not None and not isinstance(value, (str, int)):
        raise TypeError(f"{name} must be plain JSON, got {type(value).__name__}")


def _length(name: str, value, n: int) -> None:
    if not isinstance(value, list) or len(value) != n:
        found = len(value) if isinstance(value, list) else type(value).__name__
        raise ValueError(f"{name} must be a list of {n}, got {found}")


def _herding(trace: dict) -> None:
    n = len(trace["points"])
    for key in ("owner", "names"):
        _length(f"trace[{key!r}]", trace[key], n)
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]"
        stored = [place for places in step["memory"].values() for place in places]
        places = [step["chosen"], *step["candidates"], *step["tied"], *stored]
        if any(place is not None and not 0 <= place < n for place in places):
            raise ValueError(f"{name} must name points from 0 to {n - 1}, got {places}")
        if step["distances"] is not None:
            _length(f"{name}['distances']", step["distances"], trace["owner"].count(step["class"]))
        if step["phase"] == "train":
            _has(name, step, ("loss",))
            _has(f"{name}['loss']", step["loss"], ("row", "columns", "distillation", "floor", "new", "mean"))


def _memory(trace: dict) -> None:
    n, memories = len(trace["labels"]), trace["memories"]
    if not n or not all(isinstance(label, int) and 0 <= label < len(trace["classes"]) for label in trace["labels"]):
        raise ValueError(f"trace['labels'] must name classes from 0 to {len(trace['classes']) - 1} for one row or more")
    for m, memory in enumerate(memories):
        _has(f"trace['memories'][{m}]", memory, ("name", "slots"))
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]"
        _length(f"{name}['went']", step["went"], len(memories))
        _length(f"{name}['slots']", step["slots"], len(memories))
        for memory, slots in zip(memories, step["slots"], strict=True):
            _length(f"a memory of {name}['slots']", slots, memory["slots"])
            if not all(row is None or 0 <= row < step["n"] <= n for row in slots):
                raise ValueError(f"{name}['slots'] must name rows below n = {step['n']}, and n be {n} at most")


def _run(trace: dict) -> None:
    if not trace["runs"]:
        raise ValueError("trace['runs'] must hold at least one run")
    tasks, cells = len(trace["tasks"]), (trace["grid"] or 0) ** 2
    for r, run in enumerate(trace["runs"]):
        _has(f"trace['runs'][{r}]", run, ("name", "frames"))
        _length(f"trace['runs'][{r}]['frames']", run["frames"], len(trace["steps"]))
        for f, frame in enumerate(run["frames"]):
            name = f"trace['runs'][{r}]['frames'][{f}]"
            _has(name, frame, ("step", "task", "accuracy", "R"))
            _length(f"{name}['accuracy']", frame["accuracy"], tasks)
            _length(f"{name}['R']", frame["R"], tasks)
            if frame.get("cells") is not None and len(frame["cells"]) != cells:
                raise ValueError(f"{name}['cells'] must have {cells} digits, got {len(frame['cells'])}")


def _features(trace: dict) -> None:
    n = len(trace["owner"])
    for key in ("role", "names"):
        _length(f"trace[{key!r}]", trace[key], n)
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]"
        _length(f"{name}['points']", step["points"], n)
        places = [place for rows in step["memory"].values() for place in rows]
        if any(not 0 <= place < n for place in places):
            raise ValueError(f"{name}['memory'] must name rows from 0 to {n - 1}, got {places}")


def _generations(trace: dict) -> None:
    if not trace["panels"]:
        raise ValueError("trace['panels'] must hold at least one panel")
    for i, line in enumerate(trace["lines"]):
        _has(f"trace['lines'][{i}]", line, ("name", "values"))
        _length(f"trace['lines'][{i}]['values']", line["values"], len(trace["steps"]))
    widths = {"points": 3, "ellipses": 6, "arrows": 5, "images": 3}
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]['panels']"
        _length(name, step["panels"], len(trace["panels"]))
        for panel in step["panels"]:
            _has(f"a panel of {name}", panel, tuple(widths))
            for part, width in widths.items():
                for row in panel[part]:
                    _length(f"a row of {part} in {name}", row, width)
                    c = row[1] if part == "images" else row[-1]
                    if not isinstance(c, int) or not 0 <= c < len(trace["classes"]):
                        raise ValueError(f"{part} in {name} must name classes below {len(trace['classes'])}, got {c!r}")
            if any(len(str(image[0])) != 64 for image in panel["images"]):
                raise ValueError(f"images in {name} must be 64 hexadecimal digits")


def _projection(trace: dict) -> None:
    """Vectors of two coordinates, and dots and multipliers one per row."""
    rows = trace["constraints"]
    if not rows:
        raise ValueError("trace['constraints'] must hold at least one row")
    for name, keys in (("turn", ("u", "dots", "path")), ("agem", ("u", "dots", "reference")),
                       ("gem", ("u", "dots", "v", "residuals"))):  # fmt: skip
        _has(f"trace[{name!r}]", trace[name], keys)
        _length(f"trace[{name!r}]['dots']", trace[name]["dots"], len(rows))
    answers = [trace[name]["u"] for name in ("turn", "agem", "gem")]
    for vector in (trace["gradient"], *rows, trace["agem"]["reference"], *answers):
        _length("a vector of the trace", vector, 2)
    if trace["gem"]["v"] is not None:
        _length("trace['gem']['v']", trace["gem"]["v"], len(rows))


def _distillation(trace: dict) -> None:
    C, S = len(trace["classes"]), len(trace["series"])
    for panel in trace["panels"]:
        _has("a panel of trace['panels']", panel, ("name", "image", "target", "limit"))
    for chart in trace["charts"]:
        _has("a chart of trace['charts']", chart, ("y_label", "limit", "lines"))
        for line in chart["lines"]:
            _length("the values of a line of trace['charts']", line["values"], len(trace["steps"]))
    for i, step in enumerate(trace["steps"]):
        name = f"trace['steps'][{i}]['panels']"
        _length(name, step["panels"], len(trace["panels"]))
        for panel in step["panels"]:
            _has(f"a panel of {name}", panel, ("T", "logits", "values", "gradient", "plain"))
            for part in ("logits", "values"):
                _length(f"{part} in {name}", panel[part], S)
            given = [panel[part] for part in ("gradient", "plain") if panel[part] is not None]
            for row in (*panel["logits"], *panel["values"], *given):
                _length(f"a row of {name}", row, C)
