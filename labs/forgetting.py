"""Forgetting curves: train one to four methods on the same stream and watch what happens to the first task."""

import streamlit as st

from cllab.regularization import EWC
from cllab.replay import ExperienceReplay
from cllab.training import Joint, fit
from labs.charts import accuracy_curves, loss_curves, table
from labs.controls import Controls, current_job, show_code, start_job
from labs.forgetting_race import Lane, Race
from labs.forgetting_results import results
from labs.forgetting_settings import CLAIMS, PRESETS, ask
from labs.job import Job

LOOK = (
    "Each colour is a task; at the dotted line the next task begins and the data of the one before are gone. "
    "Watch what the first curve does from there on, and which method holds it up."
)
SECONDS = {"slow": 60, "normal": 5, "full speed": None}  # that a run takes at least
TIME_TO_GUESS = 12
STATE = st.session_state


def main() -> None:
    page = Controls("fc")
    page.head("Forgetting curves", LOOK, lesson="01")
    page.presets(PRESETS, on_pick=_pick, claims=CLAIMS, keep=("ask", "device"))
    with st.sidebar:
        _settings(page)
    page.finish()
    if STATE.pop("fc.start", False) or current_job("fc") is None:
        _start(page.values)
    job, race = current_job("fc"), STATE.get("fc.race")
    if job is None:
        return
    if claim := STATE.get("fc.claim"):
        st.markdown(f":material/bolt: **The claim.** {claim}")
    st.fragment(_live, run_every=None if job.ended else 0.25)(job, race, job.ended)
    if job.ended and race.lanes:
        results(race, STATE.get("fc.previous"))
    used = {"experience replay": ExperienceReplay, "EWC": EWC, "joint": Joint}
    show_code(fit, *(used[name] for name in race.settings["methods"] if name in used), note="What this run called:")


def _pick(label: str) -> None:
    STATE["fc.start"], STATE["fc.claim"] = True, CLAIMS[label]


def _start(values: dict) -> None:
    """Begin the run that the controls describe; the last finished one becomes the one to compare with."""
    if not values["methods"]:
        return
    old = STATE.get("fc.race")
    if old is not None and old.finished:
        STATE["fc.previous"] = old
    STATE["fc.race"] = race = Race(values, ask_for=TIME_TO_GUESS if values["ask"] else 0)
    pace = None if STATE.get("fc.speed") == "full speed" else 60
    start_job("fc", race.events, device=values["device"], pace=pace)


@st.fragment
def _settings(page: Controls) -> None:
    """The controls. A fragment, so that moving a slider redraws nothing but them."""
    values = ask(page)
    about = f"After the first task the run waits for your guess, for at most {TIME_TO_GUESS} seconds."
    page.toggle("ask", "Let me guess first", True, help=about)
    ready, race = bool(values["methods"]), STATE.get("fc.race")
    look = {"type": "primary", "icon": ":material/play_arrow:", "width": "stretch"}
    pressed = st.button("Run", key="fc_do_run", disabled=not ready, **look)
    if not ready:
        st.caption("Choose at least one method.")
    elif race is not None and race.settings != values and not (pressed or STATE.get("fc.start")):
        st.caption(":material/edit: Settings changed: press Run to see what they do.")
    if pressed:
        STATE["fc.start"], STATE["fc.claim"] = True, None
        page.forget_problems()
        st.rerun()


def _live(job: Job, race: Race, was_over: bool) -> None:
    """The run as it stands: what can be done with it, the question, and one column of curves per method."""
    state = job.poll()
    if job.ended and not was_over:
        st.rerun()
    _buttons(job, race, state)
    if state == "failed":
        st.error(job.error, icon=":material/error:")
    if race.asking and state == "paused":
        _question(job, race)
    if race.lanes:
        lanes = list(race.lanes.values())
        for column, lane in zip(st.columns(len(lanes) if len(lanes) < 4 else 2) * 2, lanes, strict=False):
            with column:
                _curves(lane, race)


def _buttons(job: Job, race: Race, state: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        over, held = job.ended, state == "paused"
        label, icon = ("Resume", ":material/play_arrow:") if held else ("Pause", ":material/pause:")
        st.button(label, key="fc_do_pause", icon=icon, on_click=job.go if held else job.pause, disabled=over)
        about = "One optimiser step of every method, then pause."
        st.button("Step", key="fc_do_step", icon=":material/skip_next:", on_click=job.step, disabled=over, help=about)
        st.button("Stop", key="fc_do_stop", icon=":material/stop:", on_click=job.stop, disabled=over)
        speeds = {"label_visibility": "collapsed", "required": True, "key": "fc.speed"}
        asked = st.query_params.get("fc_speed")  # a link may begin slowly, for a class to follow
        speed = st.segmented_control("Speed", list(SECONDS), default=asked if asked in SECONDS else "normal", **speeds)
        if race.total:
            job.pace = race.total / SECONDS[speed] if SECONDS[speed] else None
    if not race.total:
        st.progress(0.0, text="Waiting for a free processor." if state == "queued" else "Building the stream…")
        return
    where = f"Step {race.step} of {race.total}"
    if state == "queued":
        where += ", waiting: another visitor's run is computing"
    elif over:
        where += f", {state}. {job.ended_by}"
    else:
        doing = "paused before" if race.asking else "paused in" if held else "learning"
        where += f", {doing} task {race.learning}"
    st.progress(race.step / race.total, text=where)


def _question(job: Job, race: Race) -> None:
    """Predict, then reveal: how much of the first task will one method keep?"""
    first, *_, last = (name.split(":")[0] for name in race.stream.task_names)
    method = next((name for name in race.lanes if name != "joint"), "joint")
    now = race.lanes[method].history.curve[-1].accuracy[0]

    def take_your_time() -> None:
        if job.hold_seconds is not None:
            job.pause()

    def lock_in() -> None:
        race.guess = (method, STATE["fc.guess"])
        job.go()

    with st.container(border=True):
        st.markdown(
            f"**Your guess.** Task {first} is learned: {method} answers {now:.2f} of it right. How much of it will be "
            f"left when it has learned {'task ' + last if len(race.stream) == 2 else 'all tasks up to ' + last}?"
        )
        label = f"Accuracy of {method} on task {first} at the end"
        st.slider(label, 0.0, 1.0, 0.5, 0.01, key="fc.guess", on_change=take_your_time)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Lock in my guess", key="fc_do_lock", type="primary", on_click=lock_in)
            st.button("Just show me", key="fc_do_skip", on_click=job.go)
            seconds = job.hold_seconds
            st.caption("Take your time." if seconds is None else f"Goes on by itself in {seconds:.0f} s.")


def _curves(lane: Lane, race: Race) -> None:
    """One method: its accuracy on every task, and the terms of its loss."""
    tasks, bounds = race.stream.task_names, race.boundaries
    curve = list(lane.history.curve)
    latest = curve[-1]
    now = ", ".join(f"{t.split(':')[0]} {a:.2f}" for t, a in zip(tasks, latest.accuracy, strict=True))
    if len(tasks) > 3:
        seen = latest.accuracy[: max(1, latest.task + 1)]
        now = f"mean so far {sum(seen) / len(seen):.2f}"
    st.markdown(f"**{lane.name}** &nbsp; {now}")
    rows = [(point.step, t, a) for point in curve for t, a in zip(tasks, point.accuracy, strict=True)]
    alt = f"{lane.name}: accuracy on each task after step {latest.step}: {now}."
    st.vega_lite_chart(table(rows, "step", "task", "accuracy"), accuracy_curves(tasks, bounds), alt=alt)
    losses = dict(lane.latest)
    terms = " + ".join(f"{name} {value:.3f}" for name, value in losses.items())
    whole = f" = {sum(losses.values()):.3f}" if len(losses) > 1 else ""
    st.caption(f"loss: {terms}{whole}" if losses else "loss: no step taken yet")
    names = ["task", "EWC"] if lane.name == "EWC" else ["task"]
    alt = f"{lane.name}: loss on a log scale, now {terms}{whole}."
    st.vega_lite_chart(table(lane.loss_curve(), "step", "term", "loss"), loss_curves(names, bounds), alt=alt)


main()
