"""What every page of the lab shares: its head, its settings (kept in the address), its presets and its job.

    page = Controls("fc")
    page.head("Forgetting curves", "Watch the first task's curve when the second begins. ...", lesson="01")
    page.presets({"Fine-tuning forgets": {"methods": ["fine-tuning"]}}, on_pick=start)
    epochs = page.slider("epochs", "Epochs", 1, 50, 10, help="...")     # fc_epochs=... in the address
    page.finish()                                                      # says what was wrong with the address

Every setting stands under "<prefix>_<name>" in session_state and in the address, so that a link reproduces the
page and two visitors never share one. A wrong value in the address gives way to the default, with a sentence.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import streamlit as st
import torch
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from labs.job import Job
from labs.parts import copy_link, lesson_link, show_code

__all__ = ["Controls", "current_job", "show_code", "start_job", "stop_job"]


class Controls:
    """The settings of one page, in the order in which they are asked for. `values` collects {name: value}."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.values: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        self._problems: dict[str, str] = st.session_state.setdefault(self._own("problems"), {})
        _leave_other_pages(prefix)

    @property
    def _first_visit(self) -> bool:
        return self._own("known") not in st.session_state

    def key(self, name: str) -> str:
        """The name of a setting in session_state and in the address."""
        return f"{self.prefix}_{name}"

    def head(self, title: str, look: str, lesson: str | None = None) -> None:
        """Title and what to look for, two sentences; `lesson` is the number of the page's lesson, e.g. "01"."""
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
            st.title(title, anchor=False, width="content")
            with st.container(horizontal=True, width="content", gap="small"):
                copy_link(self.key("copy_link"))
                if lesson:
                    lesson_link(lesson)
        st.markdown(f"**What to look for.** {look}")
        self._messages = st.container()

    def presets(
        self,
        presets: Mapping[str, Mapping[str, Any]],
        on_pick: Callable[[str], None] | None = None,
        claims: Mapping[str, str] | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        """A row of buttons, one per claim. Each sets the settings that it names and all others to their defaults.

        on_pick(label) is called after that. claims: {label: one sentence}, shown when the pointer rests on a
        button. keep: settings that no button touches.
        """

        def pick(label: str) -> None:
            self.set(presets[label], keep)
            if on_pick is not None:
                on_pick(label)

        with st.container(horizontal=True, gap="small"):
            for i, label in enumerate(presets):
                given = {"key": self.key(f"preset_{i}"), "help": (claims or {}).get(label)}
                st.button(label, on_click=pick, args=(label,), **given)

    def set(self, values: Mapping[str, Any], keep: Sequence[str] = ()) -> None:
        """Give settings these values and all others but `keep` their defaults; for callbacks only."""
        for name, default in st.session_state.get(self._own("known"), {}).items():
            if name not in keep:
                st.session_state[self.key(name)] = values.get(name, default)
        self.forget_problems()

    def forget_problems(self) -> None:
        """Take down the message about the address."""
        self._problems.clear()

    # --- settings --------------------------------------------------------------------------------------------

    def slider(self, name: str, label: str, low, high, default, *, step=None, help: str, **options):
        """A number from `low` to `high`, whole if `low` is."""
        kind = type(low)
        allowed = f"a {'whole ' if kind is int else ''}number from {low:g} to {high:g}"
        self._check(name, default, lambda raw: low <= kind(raw) <= high, allowed)
        given = {"min_value": low, "max_value": high, "value": default, "step": step or (1 if kind is int else 0.01)}
        return self._keep(name, default, st.slider, {"label": label, "help": help, **given, **options})

    def scale(self, name: str, label: str, steps: Sequence[float], default, *, help: str, **options):
        """One of a few numbers, for quantities that are chosen by order of magnitude."""
        return self._one(st.select_slider, name, label, steps, default, {"value": default}, help, options)

    def select(self, name: str, label: str, choices: Sequence[str], default: str, *, help: str, **options) -> str:
        """One of many names, in a drop-down list."""
        given = {"index": list(choices).index(default)}
        return self._one(st.selectbox, name, label, choices, default, given, help, options)

    def choice(self, name: str, label: str, choices: Sequence[str], default: str, *, help: str, **options) -> str:
        """One of two to four names, side by side."""
        given = {"default": default, "required": True}
        return self._one(st.segmented_control, name, label, choices, default, given, help, options)

    def several(
        self, name: str, label: str, choices: Sequence[str], default: list[str], *, help: str, **options
    ) -> list[str]:
        """Any number of a few names, also none; in the order of `choices`."""
        names = _names(choices, options)
        self._check(name, default, lambda raw: raw in names, _any_of(names), many=True)
        given = {"label": label, "options": choices, "selection_mode": "multi", "default": default}
        chosen = self._keep(name, default, st.pills, {"help": help, **given, **options})
        self.values[name] = [c for c in choices if c in chosen]
        return self.values[name]

    def toggle(self, name: str, label: str, default: bool, *, help: str, **options) -> bool:
        """On or off."""
        self._check(name, default, lambda raw: raw.lower() in ("true", "false"), "true or false")
        return self._keep(name, default, st.toggle, {"label": label, "value": default, "help": help, **options})

    def seed(self, name: str = "seed", default: int = 0) -> int:
        """The seed, 0 to 999, and a button that takes the next one."""

        def another() -> None:
            st.session_state[self.key(name)] = (st.session_state[self.key(name)] + 1) % 1000

        about = "Decides the data, the first weights and every draw: the same seed gives the same run."
        self._check(name, default, lambda raw: 0 <= int(raw) <= 999, "a whole number from 0 to 999")
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            given = {"label": "Seed", "min_value": 0, "max_value": 999, "value": default, "help": about}
            self._keep(name, default, st.number_input, {"width": 150, **given})
            st.button("New seed", key=self.key("new_seed"), on_click=another, icon=":material/casino:")
        return self.values[name]

    def device(self, name: str = "device") -> str:
        """The device to train on: "cpu", or "cuda" where there is one."""
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        about = "Where the run is computed. CUDA is offered where this machine has it."
        return self.choice(name, "Device", devices, "cpu", help=about)

    def finish(self) -> None:
        """After the last setting: remember which there are, and say what the address got wrong."""
        first_visit = self._first_visit
        st.session_state[self._own("known")] = dict(self._defaults)
        if first_visit:
            for key in st.query_params:
                if key in self._defaults:
                    self._problems[key] = f"`{_plain(key)}` is called `{self.key(key)}` here."
                elif key.startswith(f"{self.prefix}_") and key[len(self.prefix) + 1 :] not in self._defaults:
                    self._problems[key] = f"`{_plain(key)}` is not a setting of this page."
        if self._problems:
            text = "\n".join(f"- {problem}" for problem in self._problems.values())
            self._messages.warning(f"Part of the address was not understood:\n{text}", icon=":material/link_off:")

    # --- helpers ---------------------------------------------------------------------------------------------

    def _own(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def _one(self, widget, name, label, choices, default, given, help, options):
        names = _names(choices, options)
        self._check(name, default, lambda raw: raw in names, _any_of(names))
        given = {"label": label, "options": choices, "help": help, **given, **options}
        return self._keep(name, default, widget, given)

    def _check(self, name: str, default, fits: Callable[[str], bool], allowed: str, many: bool = False) -> None:
        """On a page's first run in a session: take what does not fit out of the address before a widget sees it."""
        key = self.key(name)
        given = st.query_params.get_all(key) if self._first_visit else []
        if all(_holds(fits, raw) for raw in given) and (many or len(given) < 2):
            return
        wrong = _plain(f"{key}={', '.join(given)}")
        shown = ", ".join(map(str, default)) if isinstance(default, list) else default
        self._problems[key] = f"`{wrong}`: it must be {allowed}. Using `{shown}`."
        del st.query_params[key]
        st.rerun()

    def _keep(self, name: str, default, widget: Callable, options: dict[str, Any]):
        self._defaults[name] = default
        self.values[name] = widget(key=self.key(name), bind="query-params", **options)
        return self.values[name]


def start_job(prefix: str, source: Callable[[], Generator], **options) -> Job:
    """Stop the page's job, if any, and begin a new one: `Job(source, **options)`."""
    stop_job(prefix)
    st.session_state[f"{prefix}.job"] = job = Job(source, present=_visitor(), **options)
    return job


def current_job(prefix: str) -> Job | None:
    """The page's job in this session, running or ended."""
    return st.session_state.get(f"{prefix}.job")


def stop_job(prefix: str) -> None:
    """Stop the page's job, if any."""
    if (job := current_job(prefix)) is not None:
        job.stop()


def _visitor() -> Callable[[], bool]:
    """A function that any thread may ask whether this visitor's browser is still connected."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return lambda: False
    return lambda: runtime.exists() and runtime.get_instance().is_active_session(context.session_id)


def _leave_other_pages(prefix: str) -> None:
    """Whoever opens one page has left the others: their jobs end at once, not only when they miss the polls."""
    for key in list(st.session_state):
        if isinstance(key, str) and key.endswith(".job") and key != f"{prefix}.job":
            st.session_state[key].stop()


def _holds(fits: Callable[[str], bool], raw: str) -> bool:
    try:
        return fits(raw)
    except ValueError:
        return False


def _names(choices: Sequence[Any], options: Mapping[str, Any]) -> list[str]:
    """The choices as the address writes them."""
    return [(options.get("format_func") or str)(choice) for choice in choices]


def _any_of(names: Sequence[str]) -> str:
    return "one of " + ", ".join(f"`{name}`" for name in names)


def _plain(text: str) -> str:
    """Text of an address as it may stand between Markdown's code marks."""
    text = "".join(c for c in text if c.isprintable() and c != "`")
    return text if len(text) <= 60 else f"{text[:60]}…"
