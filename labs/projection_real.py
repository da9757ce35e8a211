"""The projection page's view of a real run: three methods side by side, measured while they learn."""

import streamlit as st

from cllab.regularization import AGEM, GEM
from labs.charts import accuracy_curves, table
from labs.controls import Controls, current_job, show_code, start_job, stop_job
from labs.job import Job
from labs.projection_charts import cosine_chart, count_chart
from labs.projection_run import DEFAULTS, NAMES, STREAMS, Lane, Run, Watch
from labs.projection_traces import number

RUN_DEFAULTS = {**DEFAULTS, "guess": False}
KEPT = 16  # finished runs that all visitors share
PACE = 80  # steps a second at most, so that one can follow
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75)
STATE = st.session_state


def show_run(page: Controls) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
        about = (
            "Permuted digits: four tasks, ten classes each, pixels shuffled anew. Split digits: five, two digits each."
        )
        stream = page.select("stream", "Stream", STREAMS, DEFAULTS["stream"], help=about, width=190)
        about = "Learning rate of plain SGD; momentum or Adam would turn the step away from u."
        lr = page.scale("lr", "Learning rate", [0.02, 0.05, 0.1, 0.2, 0.5], DEFAULTS["lr"], help=about, width=190)
        about = "GEM's margin γ."
        gamma = page.slider("gamma", "Margin γ", 0.0, 1.0, DEFAULTS["gamma"], step=0.05, help=about, width=150)
        about = "Rows of each past task in memory. Their gradient is the constraint."
        kept = page.scale("per_task", "Rows per task", [4, 16, 64, 256], DEFAULTS["per_task"], help=about, width=190)
    with st.expander("Seed and guessing", icon=":material/tune:"), st.container(horizontal=True, gap="medium"):
        seed = page.seed()
        about = "The page asks how often A-GEM's step violates a past task before it shows the run."
        predict = page.toggle("guess", "Let me guess first", RUN_DEFAULTS["guess"], help=about)
    page.finish()
    job, run = begin({"stream": stream, "lr": lr, "gamma": gamma, "per_task": kept, "seed": seed})
    guess = asked(run) if predict else None
    if predict and guess is None:
        return
    st.fragment(live, run_every=0.3 if job and not job.ended else None)(job, run, job is None or job.ended, guess)
    note = "The two methods, and the watch that measures the cosines before and after each of them."
    show_code(GEM, AGEM, Watch, note=note)


def begin(settings: dict) -> tuple[Job | None, Run]:
    """The run of these settings: one that is finished, the one under way, or a new one. No job: it is finished."""
    known = finished_runs()
    key = tuple(settings.values())
    if key in known:
        stop_job("proj")
        STATE["proj.run"] = known[key]
        return None, known[key]
    run, job = STATE.get("proj.run"), current_job("proj")
    stopped = job is None or job.state == "stopped"
    if run is None or run.settings != settings or (stopped and not run.finished):
        STATE["proj.run"] = run = Run(**settings)
        job = start_job("proj", run.events, pace=PACE)
    return job, run


def asked(run: Run) -> float | None:
    """Ask for the share of A-GEM's steps that violate a past task; None until there is an answer."""
    st.markdown(
        "**From the second task on, every method measures each step against each past task's gradient. A-GEM makes "
        "sure that its step agrees with the mean of the past. In which share of its steps will it still disagree "
        "with at least one past task?**"
    )
    key = f"proj_share_{'_'.join(map(str, run.settings.values()))}_{STATE.get('proj.round', 0)}"
    return st.pills("Your guess", SHARES, key=key, format_func=lambda s: f"{s:.0%}", label_visibility="collapsed")


def live(job: Job | None, run: Run, was_over: bool, guess: float | None) -> None:
    """The run as it stands; when it has ended the page runs once more and no longer asks."""
    state = "finished" if job is None else job.poll()
    if not was_over and job.ended:
        st.rerun()
    if state == "failed":
        st.error(job.error, icon=":material/error:")
    if run.finished:
        keep(run)
        st.progress(1.0, text=f"All {run.total} steps of three methods are taken.")
    elif run.total:
        waiting = ", waiting: another visitor's run is computing" if state == "queued" else ""
        st.progress(run.step / run.total, text=f"Step {run.step} of {run.total}{waiting}. {job.ended_by}")
    else:
        st.progress(0.0, text="Waiting for a free processor." if state == "queued" else "Building the stream…")
        return
    for column, name in zip(st.columns(3), NAMES, strict=True):
        with column:
            if name in run.lanes:
                show_lane(name, run.lanes[name], run)
    if run.finished:
        show_end(run, guess)


def show_lane(name: str, lane: Lane, run: Run) -> None:
    """One method: accuracy on every task, the smallest cosine of every step, the number of tasks violated."""
    tasks, angles, curve = short_names(run), list(lane.angles), list(lane.history.curve)
    now = curve[-1].accuracy if curve else ()
    seen = now[: max(1, curve[-1].task + 1)] if curve else ()
    st.markdown(f"**{name}** &nbsp; mean accuracy so far {sum(seen) / max(1, len(seen)):.2f}")
    rows = [(p.step, t, a) for p in curve for t, a in zip(tasks, p.accuracy, strict=True)]
    told = ", ".join(f"{t} {a:.2f}" for t, a in zip(tasks, now, strict=False))
    spec = accuracy_curves(tasks, run.boundaries, height=210)
    st.vega_lite_chart(table(rows, "step", "task", "accuracy"), spec, alt=f"{name}: accuracy on each task: {told}.")
    wanted, taken = sum(a.violated > 0 for a in angles), sum(a.still > 0 for a in angles)
    text = f"{wanted} of {len(angles)} gradients violated a past task, {taken} of the steps taken did"
    cosine_chart(angles, run.boundaries, f"{name}: smallest cosine with a past task's gradient, per step. {text}.")
    count_chart(angles, run.boundaries, f"{name}: number of past tasks that are violated. {text}.")
    st.caption(f"{text}." if angles else "The first task has no past to disagree with.")


def show_end(run: Run, guess: float | None) -> None:
    """The verdict on the guess, and the table."""
    angles = run.lanes["A-GEM"].angles
    share = sum(a.still > 0 for a in angles) / len(angles)
    if guess is not None:
        right = min(SHARES, key=lambda s: abs(s - share)) == guess
        verdict = "Right" if right else f"You said {guess:.0%}"
        (st.success if right else st.info)(f"{verdict}: {share:.0%} of A-GEM's steps violate at least one past task.")
    tasks = short_names(run)
    lines = ["| method | " + " | ".join(tasks) + " | ACC | g violates | u violates | smallest cosine of u |"]
    lines.append("| --- |" + " ---: |" * (len(tasks) + 4))
    for name, lane in run.lanes.items():
        final, n = lane.history.accuracy[-1], len(lane.angles)
        wanted, taken = (sum(getattr(a, kind) > 0 for a in lane.angles) / n for kind in ("violated", "still"))
        cells = " | ".join(f"{a:.2f}" for a in final)
        smallest = number(round(min(a.after for a in lane.angles), 2))
        lines.append(f"| {name} | {cells} | **{final.mean():.2f}** | {wanted:.0%} | {taken:.0%} | {smallest} |")
    st.markdown("\n".join(lines))
    st.caption(
        "g violates: share of steps in which the gradient that was wanted has a negative cosine with at least one past "
        "task's. u violates: the same for the step that was taken. GEM's promise is about the rows in memory and to "
        "first order, so its accuracy may still fall."
    )


def short_names(run: Run) -> list[str]:
    return [f"task {i + 1}" for i in range(len(run.boundaries))]


@st.cache_resource
def finished_runs() -> dict[tuple, Run]:
    """The latest finished runs of all visitors, by their settings."""
    return {}


def keep(run: Run) -> None:
    known = finished_runs()
    known[tuple(run.settings.values())] = run
    while len(known) > KEPT:
        known.pop(next(iter(known)), None)
