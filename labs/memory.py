"""Memory: a stream flows past a reservoir, a ring or a class-balanced memory; who survives, and how fairly."""

import streamlit as st

from labs import memory_chances as chances
from labs import memory_traces as traces
from labs.controls import Controls, show_code
from labs.memory_charts import chance_chart, chance_rows, chance_table
from labs.player import player

LOOK = (
    "Every row of the stream is a thin bar, tall while the row is in memory. A reservoir keeps tall bars everywhere; "
    "a ring only at the end. Then look at the class with the fewest rows: which memory still knows it?"
)
DEFAULTS = {"stream": "three tasks in turn", "rows": 90, "slots": 12, "a": "reservoir", "b": "ring"}
PRESETS = {
    "Fair: reservoir": {},
    "Only yesterday: ring": {"a": "ring", "b": "class ring"},
    "A rare class: CBRS": {"stream": "a rare class", "rows": 113, "slots": 9, "b": "CBRS"},
    "Equal shares: balanced": {"stream": "five tasks in turn", "a": "balanced", "b": "reservoir"},
    "Off by one": {"stream": "one class", "rows": 6, "slots": 3, "b": "off by one", "seeds": 1000},
    "Let me guess": {"predict": True, "a": "ring", "b": "reservoir"},
}
CLAIMS = {
    "Fair: reservoir": "Every row ever offered is in the reservoir with the same chance, K / n; the ring forgets.",
    "Only yesterday: ring": "One ring for all holds the last K rows. One ring per class holds the last rows of each.",
    "A rare class: CBRS": "Three rows of class C among 113: CBRS keeps them all, the reservoir mostly none.",
    "Equal shares: balanced": "Each new class cuts the others to their first K / t rows.",
    "Off by one": "One number too few to draw from, and newcomers stay with 3/5 instead of 1/2.",
    "Let me guess": "You say how many rows of the first task will survive.",
}
ABOUT = {
    "reservoir": "row n draws a number below n, and takes that slot if there is one",
    "ring": "slot n mod K: the oldest row is overwritten",
    "class ring": "a ring of ⌊K / t⌋ slots for each of the t classes",
    "balanced": "the first ⌊K / t⌋ rows of each of the t classes met so far",
    "CBRS": "a small class takes slots from the largest, a full one is a reservoir of its own",
    "off by one": "a reservoir with the usual mistake: the draw leaves out its last value",
}
NOTHING = "nothing"
# On a phone the moving picture comes first and the settings follow it.
PICTURE_FIRST = """<style>@media (max-width: 640px) {
[data-testid="stLayoutWrapper"]:has(> .st-key-mem_settings) { order: 1; }
}</style>"""


def main() -> None:
    page = Controls("mem")
    page.head("Memory", LOOK, lesson="03")
    page.presets(PRESETS, on_pick=picked, claims=CLAIMS)
    st.html(PICTURE_FIRST)
    board = st.container(key="mem_board")
    with board.container(key="mem_settings"):
        chosen, seeds, predict = settings(page)
    page.finish()
    names, trace = chosen["names"], story(**chosen)
    with board.container(key="mem_picture"):
        if predict and not guessed(trace, names):
            return
        watch(trace, names)
    show_ends(trace, names, min(chosen["capacity"], chosen["n"]))
    show_chances(chosen, seeds)
    note = "What decides the slot of each row. " + ". ".join(f"**{name}**: {ABOUT[name]}" for name in names) + "."
    show_code(*(traces.MEMORIES[name][1] for name in names), note=note)
    st.caption(
        "Lesson 03 builds these memories by hand and trains with them; lesson 04 chooses rows by herding instead."
    )


def picked(label: str) -> None:
    """A preset was chosen: its player starts anew, and so does the guess."""
    st.session_state["mem.round"] = st.session_state.get("mem.round", 0) + 1


def settings(page: Controls) -> tuple[dict, int, bool]:
    """What decides the trace, the number of seeds, and whether to ask before showing."""
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        about = "Which classes come when. A rare class: 100 : 10 : 3 rows of A, B and C."
        kind = page.select("stream", "Stream", list(traces.SHARES), DEFAULTS["stream"], help=about, width=190)
        about = "Rows that pass, one after the other."
        rows = page.slider("rows", "Rows n", 6, traces.MOST_ROWS, DEFAULTS["rows"], help=about, width=150)
        about = "Slots of each memory: rows that it can hold."
        slots = page.slider("slots", "Slots K", 1, traces.MOST_SLOTS, DEFAULTS["slots"], help=about, width=150)
        about = "\n".join(f"- {name}: {text}" for name, text in ABOUT.items())
        names = list(traces.MEMORIES)
        a = page.select("a", "Memory", names, DEFAULTS["a"], help=about, width=140)
        b = page.select("b", "Beside it", [NOTHING, *names], DEFAULTS["b"], help=about, width=140)
    with (
        st.expander("Seed, repetitions and guessing", icon=":material/tune:"),
        st.container(horizontal=True, gap="medium"),
    ):
        seed = page.seed()
        about = "Runs from which the chances at the bottom of the page are measured, each with another seed."
        seeds = page.scale("seeds", "Seeds", [50, 200, 1000], 200, help=about, width=200)
        about = "The page asks who will survive before it shows the run."
        predict = page.toggle("predict", "Let me guess first", False, help=about)
    if a == b:
        st.info("Beside it stands the same memory, so it is shown once.", icon=":material/info:")
    shown = (a,) if b in (NOTHING, a) else (a, b)
    classes = len({name for name, _ in traces.SHARES[kind]})
    if slots < classes and set(shown) & set(traces.PER_CLASS):
        st.info(
            f"A memory with slots for every class needs one for each of the {classes} classes: K = {classes} is used.",
            icon=":material/info:",
        )
        slots = classes
    return {"kind": kind, "n": rows, "capacity": slots, "names": shown, "seed": seed}, seeds, predict


def guessed(trace: dict, names: tuple[str, ...]) -> bool:
    """Ask how many rows of one class the first memory will hold; True once there is an answer, which is judged."""
    c, answers = traces.puzzle(trace)
    label, n, truth = trace["classes"][c], len(trace["labels"]), traces.counts(trace, 0)[c]
    slots, offered = trace["memories"][0]["slots"], trace["labels"].count(c)
    st.markdown(
        f"**{n} rows pass, {offered} of them of class {label}. When all have passed, how many of its {slots} slots "
        f"does the {names[0]} fill with class {label}?** ({names[0]}: {ABOUT[names[0]]})"
    )
    key = f"mem_guess_{state_key(trace, names)}"
    guess = st.pills("Your guess", answers, key=key, label_visibility="collapsed")
    if guess is None:
        return False
    share = traces.in_proportion(trace, slots)[c]
    verdict = "Right" if guess == truth else f"You said {guess}"
    text = f"{verdict}: {truth} of {slots}. In proportion to the stream it would be {share:.1f}."
    (st.success if guess == truth else st.info)(text)
    return True


def state_key(trace: dict, names: tuple[str, ...]) -> str:
    """Another one for every trace, and for every press of a preset."""
    return f"{st.session_state.get('mem.round', 0)}_{trace['title']}_{'_'.join(names)}"


@st.fragment
def watch(trace: dict, names: tuple[str, ...]) -> None:
    """The player: it starts anew with every new trace, and its steps concern nobody else."""
    key = f"mem_player_{state_key(trace, names)}"
    if (before := st.session_state.get("mem.player")) not in (None, key):
        for old in (before, f"{before}_asked"):
            st.session_state.pop(old, None)
    st.session_state["mem.player"] = key
    player(trace, key=key, step=len(trace["steps"]) - 1, autoplay=True)  # it plays from the start, or rests at the end


def show_ends(trace: dict, names: tuple[str, ...], K: int) -> None:
    """Who is in memory when the stream has passed, class by class."""
    labels = trace["labels"]
    st.markdown(f"**At the end**, after n = {len(labels)} rows: rows of each class in memory")
    held = [traces.counts(trace, m) for m in range(len(names))]
    lines = ["| class | n_c | K·n_c/n |" + "".join(f" {name} |" for name in names)]
    lines.append("| --- | ---: | ---: |" + " ---: |" * len(names))
    for c, (label, share) in enumerate(zip(trace["classes"], traces.in_proportion(trace, K), strict=True)):
        cells = "".join(f" {counts[c]} |" for counts in held)
        lines.append(f"| {label} | {labels.count(c)} | {share:.2f} |{cells}")
    st.markdown("\n".join(lines))
    st.caption(
        "n_c: rows of the class offered. K · n_c / n: what a memory that treats all rows alike holds on average."
    )


def show_chances(chosen: dict, seeds: int) -> None:
    """Measured chance of every row to be in memory at the end, beside K / n; exact fractions for short streams."""
    labels, classes = traces.stream(chosen["kind"], chosen["n"], chosen["seed"])
    n, K, names = chosen["n"], chosen["capacity"], chosen["names"]
    fair = min(1.0, K / n)
    st.markdown(f"**Chance of each row to be in memory at the end**, measured over {seeds} seeds")
    formula = f"K / n = {K} / {n} = {fair:.3f}" if n > K else f"1, since K = {K} slots hold all {n} rows"
    st.caption(
        f"Fair would be the same chance for all rows: {formula} (dashed line). Dots are measured, short lines the law."
    )
    found = {}
    for name in names:
        p = measure(name, tuple(labels), K, len(classes), seeds)
        found[name] = chance_rows(labels, classes, p, chances.law(name, labels, K, len(classes)))
    top = max([fair, *(row[2] for rows in found.values() for row in rows)])
    for i, (column, (name, rows)) in enumerate(zip(st.columns(len(names)), found.items(), strict=True)):
        with column:
            st.markdown(name)
            chance_chart(rows, classes, n, fair, top, name, key=f"mem_chances_{i}")
    if n <= chances.LONGEST and set(names) <= {"reservoir", "off by one"}:
        st.markdown(chance_table({name: fractions(name, n, K) for name in names}, K))
    notes = {
        "CBRS": "For CBRS the line is the mean of the measured chances of a class: within a class all rows are equal.",
        "ring": "The ring draws nothing: every seed gives the same.",
        "class ring": "The class ring draws nothing: every seed gives the same.",
        "balanced": "The balanced memory draws nothing: every seed gives the same.",
    }
    if told := [notes[name] for name in names if name in notes]:
        st.caption(" ".join(told))


# --- computed once, shared by all visitors -----------------------------------------------------------------


@st.cache_data(max_entries=64, show_spinner=False)
def story(kind: str, n: int, capacity: int, names: tuple[str, ...], seed: int) -> dict:
    return traces.trace(kind, n, capacity, names, seed)


@st.cache_data(max_entries=64, show_spinner="Measuring the chances")
def measure(name: str, labels: tuple[int, ...], capacity: int, n_classes: int, seeds: int) -> list[float]:
    return chances.measured(name, list(labels), capacity, n_classes, seeds)


@st.cache_data(max_entries=64, show_spinner=False)
def fractions(name: str, n: int, capacity: int) -> list:
    return chances.exact(name, n, capacity)


main()
