"""Small parts of a page: the source code that ran, the way to its lesson, a button that copies the address."""

import functools
import inspect
from pathlib import Path
from typing import Any

import streamlit as st

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def show_code(*objects: Any, note: str = "") -> None:
    """A fold with the source of the functions and classes that the page runs."""
    with st.expander("Show the code", icon=":material/code:"):
        if note:
            st.markdown(note)
        for thing in objects:
            st.caption(f"`{thing.__module__}.{thing.__qualname__}`")
            st.code(_source(thing), language="python")


@functools.lru_cache(maxsize=64)
def _source(thing: Any) -> str:
    return inspect.getsource(thing)


def lesson_link(number: str) -> None:
    """Where the page's lesson is: a link into JupyterLab, and the command that starts it. Nothing without its file."""
    found = next(iter(sorted(NOTEBOOKS.glob(f"{number}_*.ipynb"))), None)
    if found is None:
        return
    name = found.name
    path = st.get_option("server.baseUrlPath").strip("/")
    proxied = path.endswith("cllab")  # JupyterLab serves the lab, so it is running already
    jupyter = f"/{path.removesuffix('cllab')}" if proxied else "http://localhost:8888/"
    with st.popover(f"Lesson {number}", icon=":material/menu_book:"):
        st.markdown(f"The lesson behind this page is `notebooks/{name}`.")
        if not proxied:
            st.markdown("Start JupyterLab in a terminal with `make lab`, then:")
        address = f"{jupyter}lab/tree/notebooks/{name}"
        st.link_button("Open it in JupyterLab", address, icon=":material/open_in_new:")


def copy_link(key: str) -> None:
    """A button that copies the page's address with all its settings."""
    _COPY(key=key, data={"label": "Copy link", "done": "Copied"}, width="content", height="content")


_COPY = st.components.v2.component(
    "cllab_copy_link",
    html="<button type='button'></button>",
    css="""
button { font: inherit; font-size: 0.875rem; padding: 0.4rem 0.75rem; min-height: 2.5rem; white-space: nowrap;
  cursor: pointer; color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius); }
button:hover, button:focus-visible { color: var(--st-primary-color); border-color: var(--st-primary-color); }
""",
    js="""
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  if (!button.textContent) button.textContent = data.label;
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(location.href); button.textContent = data.done; }
    catch { window.prompt(data.label, location.href); }
    setTimeout(() => { button.textContent = data.label; }, 1500);
  };
}
""",
)
