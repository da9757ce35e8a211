"""Progressive columns: a network that grows by a column per task, and what the new ones read of the old."""

import functools

import streamlit as st

from cllab.isolation import ProgressiveNet, column_strengths, lateral_adapter, lateral_sum
from cllab.isolation.progressive import Column
from labs import columns_traces as traces
from labs import kept_runs
from labs.columns_growth import show_growth
from labs.controls import Controls, show_code
from labs.player import player

LOOK = (
    "Each task gets a column of its own, and the old ones are frozen: nothing is forgotten, bit for bit. A new column "
    "may read what the old columns make of its rows, through laterals: extra weights that start at 0. Watch their "
    "lines thicken in step with its accuracy, and the parameters grow with every pair of columns."
)
PRESETS = {
    "Other names": {},
    "Plenty of rows": {"rows": 300},
    "Nothing worth reading": {"tasks": "shuffled pixels", "rows": 100},
    "Pairs of digits": {"tasks": "pairs of digits", "rows": 10},
    "Narrow adapters": {"laterals": "adapter"},
    "Five columns": {"columns": 5},
    "Let me guess": {"rows": 300, "predict": True},
}
CLAIMS = {
    "Other names": "The same digits, but their names are exchanged, and 20 rows to learn them: reading helps.",
    "Plenty of rows": "With 300 rows a column alone does well too. Reading still saves it time.",
    "Nothing worth reading": "Shuffled pixels: the laterals thicken all the same, but accuracy gains hardly anything.",
    "Pairs of digits": "Ten rows of two new digits are nearly enough for a column alone: little is left to gain.",
    "Narrow adapters": "All old columns are read through three units per layer: fewer weights, and a part of the gain.",
    "Five columns": "Ten pairs of columns: the counter runs away from that of separate networks.",
    "Let me guess": "You say what the laterals will be worth.",
}
ABOUT_TASKS = (
    "- other names: the ten digits exchange their labels\n"
    "- turned: by 30 degrees more for each task\n"
    "- shuffled pixels: a new order of the 64 pixels for each task\n"
    "- pairs of digits: 0 or 1, then 2 or 3, and so on"
)
GAINS = ("more than 5 points better", "within 5 points", "more than 5 points worse")
# On a phone the moving picture comes first and the settings follow it; wide tables are set smaller and scroll.
ON_A_PHONE = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-col_settings) { order: 1; }
[data-testid="stMainBlockContainer"] table { display: block; overflow-x: auto; font-size: 0.75rem; }
[data-testid="stMainBlockContainer"] td { white-space: nowrap; }
[data-testid="stMainBlockContainer"] :is(th, td) { padding: 0.2rem 0.3rem; }
}</style>"""


def main() -> None:
    page = Controls("col")
    page.head("Progressive columns", LOOK, lesson="10")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS, keep=("sizes", "most", "m"))
    st.html(ON_A_PHONE)
    board = st.container(key="col_board")
    with board.container(key="col_settings"):
        chosen, predict = settings(page)
    with board.container(key="col_picture"):
        show_run(chosen, predict)
    show_growth(page)
    page.finish()
    note = (
        "A column's layer, what linear laterals and adapters add to it, the network, and how the lines' strengths are "
        "measured. `Progressive()` in the methods of `fit` adds a column per task."
    )
    show_code(Column, lateral_sum, lateral_adapter, ProgressiveNet, column_strengths, note=note)
    st.caption("Lesson 10 builds two columns by hand and sets them beside heads on a shared trunk.")


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["col.round"] = st.session_state.get("col.round", 0) + 1


def settings(page: Controls) -> tuple[dict, bool]:
    """What decides the run, and whether to ask before showing it."""
    default = traces.DEFAULTS
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        tasks = page.select("tasks", "Tasks", list(traces.TASKS), default["tasks"], help=ABOUT_TASKS, width=180)
        about = f"Training rows of each task after the first, which has {traces.FIRST}. All take as many steps."
        rows = page.scale("rows", "Rows of a new task", list(traces.ROWS), default["rows"], help=about, width=180)
        about = "linear: a matrix U from each old column. adapter: all old columns through one narrow layer."
        laterals = page.choice("laterals", "Laterals", ["linear", "adapter"], default["laterals"], help=about)
        about = "m, units of an adapter. The layers of this network have 12."
        given = {"width": 150, "disabled": laterals == "linear"}
        width = page.scale("width", "Adapter width m", list(traces.WIDTHS), default["width"], help=about, **given)
        columns = page.slider("columns", "Columns K", 2, 5, default["columns"], help="Tasks, a column each.", width=150)
    with st.expander("Seed and guessing", icon=":material/tune:"), st.container(horizontal=True, gap="medium"):
        seed = page.seed()
        about = "The page asks what the laterals will be worth before it shows the run."
        predict = page.toggle("predict", "Let me guess first", False, help=about)
    chosen = {"tasks": tasks, "rows": rows, "laterals": laterals, "width": width, "columns": columns, "seed": seed}
    return chosen, predict


def show_run(chosen: dict, predict: bool) -> None:
    """Train what is not trained yet, then what the laterals were worth, the player and the table."""
    trace, note = trained(chosen)
    if predict and not guessed(trace, chosen):
        return
    st.markdown(verdict(trace))
    watch(trace)
    st.markdown(worth_table(trace))
    st.caption(
        "Accuracies are those of test rows at the end of each task; they never change afterwards. Cut: the laterals of "
        "the finished column are set to 0, which leaves a plain network. Share: what comes through the laterals in all "
        f"that enters the last layer. {note}. CPU, seed {chosen['seed']}; other seeds differ."
    )


def verdict(trace: dict) -> str:
    """What the laterals were worth, on average over the columns that have any."""
    _, *later = traces.ends(trace)
    means = {name: sum(end[name] for end in later) / len(later) for name in ("with", "alone", "cut", "share")}
    hard = means["with"] - means["cut"] > 0.1
    needed = "a column that has learned to read cannot do without" if hard else "these columns hardly need them"
    points = round(100 * (means["with"] - means["alone"]))
    columns = (
        "Column 2" if len(later) == 1 else f"Columns 2 {'and' if len(later) == 2 else 'to'} {len(later) + 1}, mean"
    )
    return (
        f"**{columns}: {means['with']:.2f} with laterals, {means['alone']:.2f} trained without them: "
        f"{points:+d} points.** The laterals bring {means['share']:.0%} of what enters the last layer. Cut afterwards, "
        f"they leave {means['cut']:.2f}: {needed}."
    ).replace("-", "−")


def worth_table(trace: dict) -> str:
    """A line per column, in Markdown."""
    total = trace["growth"][0 if trace["laterals"] == "linear" else 1]["values"]
    lines = [
        "| column | with laterals | trained without | cut | share | parameters so far | multiplications |",
        "| --- |" + " ---: |" * 6,
    ]
    for k, end in enumerate(traces.ends(trace)):
        numbers = [f"{end[name]:.2f}" for name in ("with", "alone", "cut")]
        share = f"{end['share']:.0%}" if k else "–"
        cells = [f"{k + 1}: {end['task']}", *numbers, share, f"{total[k]:,}", f"{trace['cost'][k]:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def guessed(trace: dict, chosen: dict) -> bool:
    """Ask what the laterals are worth; True once there is an answer, which is then judged."""
    _, *later = traces.ends(trace)
    gain = sum(end["with"] - end["alone"] for end in later) / len(later)
    truth = GAINS[0] if gain > 0.05 else GAINS[2] if gain < -0.05 else GAINS[1]
    st.markdown(
        f"**{trace['title']}. How does a new column that reads the old ones do, against one of the same size that "
        "learns alone?** (test accuracy, mean over the new tasks)"
    )
    key = f"col_guess_{st.session_state.get('col.round', 0)}_{trace['title']}_{chosen['seed']}"
    guess = st.pills("Your guess", GAINS, key=key, label_visibility="collapsed")
    if guess is None:
        return False
    judged = "Right" if guess == truth else f"You said {guess}"
    text = f"{judged}: {truth}, {round(100 * gain):+d} points.".replace("-", "−")
    (st.success if guess == truth else st.info)(text)
    return True


@st.fragment
def watch(trace: dict) -> None:
    """The player; it starts anew with a preset and keeps its step while settings change."""
    player(trace, key=f"col_player_{st.session_state.get('col.round', 0)}", autoplay=True)


def trained(chosen: dict) -> tuple[dict, str]:
    """The trace of a run and where it comes from."""
    about = f"Training {chosen['columns']} columns, with laterals and without"
    train = functools.partial(traces.train, **chosen)
    trace, note = kept_runs.trained("columns", traces.settings_key(**chosen), traces.committed(), train, about)
    return trace, note.capitalize()


main()
