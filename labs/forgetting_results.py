"""What stands under a run that is over: the verdict on the guess, metrics, comparison, the player and downloads."""

import streamlit as st

from labs.charts import final_accuracies, table
from labs.forgetting_metrics import Metric, as_csv, changes, metrics_of, verdict
from labs.forgetting_race import Race
from labs.player import player


def results(race: Race, previous: Race | None) -> None:
    """Draw everything below the curves. previous: the last finished run before this one, if any."""
    done = {name: lane.history for name, lane in race.lanes.items() if lane.finished}
    if len(done) == len(race.lanes):
        if race.guess is not None:
            st.success(verdict(race.guess, race), icon=":material/lightbulb:")
        st.subheader("What was kept, in numbers", anchor=False)
        _metrics({name: metrics_of(history) for name, history in done.items()}, race, previous)
        _comparison(race, previous)
    else:
        st.info("The run was stopped, so the metrics, which need its end, are missing.", icon=":material/info:")
    st.subheader("The run again, at your pace", anchor=False)
    st.caption(
        "Press play or drag the slider. R[i, j] is the accuracy on task j after learning task i"
        + ("; the shaded regions are what each network answers there." if race.extent else ".")
    )
    if race.trace is None:
        race.make_trace()
    player(race.trace, key=f"fc_player_{race.number}", step=len(race.trace["steps"]) - 1)
    _downloads(race)


def _metrics(columns: dict[str, list[Metric]], race: Race, previous: Race | None) -> None:
    earlier = {}
    if previous is not None and len(previous.stream) == len(race.stream):
        earlier = {name: metrics_of(lane.history) for name, lane in previous.lanes.items()}
    if earlier:
        changed = changes(race.settings, previous.settings) or "nothing, so the numbers must be the same"
        st.caption(f"Arrows compare with the previous run. Changed since: {changed}.")
    for name, found in columns.items():
        with st.container(border=True):
            st.markdown(f"**{name}**")
            with st.container(horizontal=True, gap="small"):
                for i, metric in enumerate(found):
                    delta = round(metric.value - earlier[name][i].value, 2) if name in earlier else None
                    st.metric(
                        f"{metric.symbol}, {metric.name}", f"{metric.value:.2f}", delta, width=140,
                        delta_color="normal" if metric.more_is_better else "inverse",
                        help=f"{metric.meaning}\n\n$$\\small {metric.formula}$$",
                    )  # fmt: skip
    with st.expander("The formulas with these numbers", icon=":material/function:"):
        names = list(columns)
        for i, metric in enumerate(columns[names[0]]):
            st.markdown(f"**{metric.symbol}.** {metric.meaning}")
            for name in names:
                st.markdown(f"{name}: $\\displaystyle {columns[name][i].formula}$")


def _comparison(race: Race, previous: Race | None) -> None:
    runs = {name: lane.history for name, lane in race.lanes.items()}
    if previous is not None and previous.stream.task_names == race.stream.task_names:
        runs |= {f"{name} (previous)": lane.history for name, lane in previous.lanes.items()}
    tasks = race.stream.task_names
    rows = [(run, t, a) for run, h in runs.items() for t, a in zip(tasks, h.accuracy[-1], strict=True)]
    worst = min(rows, key=lambda row: row[2])
    st.markdown("**Accuracy on each task at the end**")
    st.vega_lite_chart(
        table(rows, "run", "task", "accuracy"), final_accuracies(tasks, list(runs)),
        alt=f"Accuracy on each task at the end, one row per run. Lowest: {worst[0]} on {worst[1]}, {worst[2]:.2f}.",
    )  # fmt: skip


def _downloads(race: Race) -> None:
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "All evaluations (CSV)", lambda: as_csv(race), "forgetting.csv", "text/csv",
            key="fc_csv", on_click="ignore", icon=":material/download:",
        )  # fmt: skip
        for name, lane in race.lanes.items():
            st.download_button(
                f"History: {name}", lane.history.to_json, f"history-{name.replace(' ', '-')}.json",
                "application/json", key=f"fc_history_{name}", on_click="ignore", icon=":material/download:",
                help="Read it back with cllab.training.History.load(path); its settings are inside.",
            )  # fmt: skip
