"""What a trace of kind "growing" must hold besides its keys."""

PER_EARLIER = ("drift", "newer", "mass")
FRAME_KEYS = (
    "step", "stage", "born", "frozen", "usage", "accuracy", *PER_EARLIER, "kl", "moved", "specialisation", "losses",
)  # fmt: skip


def check_growing(trace: dict) -> None:
    """ValueError when a run lacks a frame, or a frame an entry per kind, expert, stage or earlier stage."""
    n_kinds, n_stages = len(trace["kinds"]), len(trace["stages"])
    _length("trace['stage_of']", trace["stage_of"], n_kinds)
    if not all(0 <= stage < n_stages for stage in trace["stage_of"]):
        raise ValueError(f"trace['stage_of'] must name stages from 0 to {n_stages - 1}, got {trace['stage_of']}")
    if not trace["runs"]:
        raise ValueError("trace['runs'] must hold at least one run")
    for r, run in enumerate(trace["runs"]):
        if not {"name", "about", "frames"} <= set(run):
            raise ValueError(f"trace['runs'][{r}] must have name, about and frames, got {sorted(run)}")
        _length(f"trace['runs'][{r}]['frames']", run["frames"], len(trace["steps"]))
        for f, (frame, step) in enumerate(zip(run["frames"], trace["steps"], strict=True)):
            _check_frame(f"trace['runs'][{r}]['frames'][{f}]", frame, step, n_kinds, n_stages)


def _check_frame(name: str, frame: dict, step: dict, n_kinds: int, n_stages: int) -> None:
    if missing := [key for key in FRAME_KEYS if key not in frame]:
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}")
    stage, born = frame["stage"], frame["born"]
    if (stage, frame["step"]) != (step["stage"], step["step"]) or not 0 <= stage < n_stages:
        raise ValueError(f"{name} must be of the stage and step of its entry in trace['steps'], got stage {stage!r}")
    if not born or born != sorted(born) or not 0 <= born[0] <= born[-1] <= stage:
        raise ValueError(f"{name}['born'] must name stages up to {stage} in order, one per expert, got {born}")
    _length(f"{name}['frozen']", frame["frozen"], len(born))
    _length(f"{name}['usage']", frame["usage"], n_kinds)
    for counts in frame["usage"]:
        _length(f"a row of {name}['usage']", counts, len(born))
    _length(f"{name}['accuracy']", frame["accuracy"], n_stages)
    for key in PER_EARLIER:
        _length(f"{name}[{key!r}]", frame[key], stage)
    if set(frame["moved"]) != {"old", "shared"}:
        raise ValueError(f"{name}['moved'] must have old and shared, got {sorted(frame['moved'])}")


def _length(name: str, value, n: int) -> None:
    if len(value) != n:
        raise ValueError(f"{name} must have {n} entries, got {len(value)}")
