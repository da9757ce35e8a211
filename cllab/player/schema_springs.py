"""What a trace of kind "springs" must hold besides its keys."""

PATH_KEYS = ("name", "theta", "old", "new", "pull", "left", "given_up")
PANEL_KEYS = ("name", "F", "product", "paths")


def check_springs(trace: dict) -> None:
    """ValueError when a panel lacks something, or when a path has not one entry per step until it is given up."""
    if not trace["panels"]:
        raise ValueError("trace['panels'] must hold at least one panel")
    for panel in trace["panels"]:
        _complete("a panel of trace['panels']", panel, PANEL_KEYS)
        if not panel["paths"]:
            raise ValueError(f"panel {panel['name']!r} must hold at least one path")
    for way in (trace["free"], *(way for panel in trace["panels"] for way in panel["paths"])):
        _complete("a path", way, PATH_KEYS)
        wanted = len(trace["steps"]) if way["given_up"] is None else way["given_up"] + 1
        for part in ("theta", "old", "new", "pull"):
            if len(way[part]) != wanted:
                raise ValueError(f"{part} of path {way['name']!r} must have {wanted} entries, got {len(way[part])}")


def _complete(what: str, found: dict, keys: tuple[str, ...]) -> None:
    if missing := [key for key in keys if key not in found]:
        raise ValueError(f"{what} lacks {', '.join(map(repr, missing))}")
