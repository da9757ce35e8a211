"""The lab's front door: every page of labs/ in one navigation."""

import gc
from pathlib import Path

import streamlit as st
import torch

import cllab.player
import cllab.plots.palette
import cllab.training  # noqa: F401  all three are loaded before the freeze below

LABS = Path(__file__).parent / "labs"
PAGES = (
    ("forgetting", "Forgetting curves", ":material/show_chart:", "Train on task after task, watch the first one fade."),
    ("herding", "Herding steps", ":material/scatter_plot:", "Choose the few samples whose mean stays true."),
    ("memory", "Memory", ":material/inbox:", "A stream flows past a few slots: who is remembered?"),
    ("generative", "Generative replay", ":material/auto_awesome:", "A generator learns from itself: what fades first?"),
    ("elastic", "Elastic weights", ":material/compress:", "Two weights on springs: what stays, what gives way?"),
    ("distillation", "Distillation", ":material/thermostat:", "Heat the answers: what a teacher tells."),
    ("projection", "Gradient projection", ":material/square_foot:", "Drag gradients: which step hurts no old task?"),
    ("columns", "Progressive columns", ":material/view_column:", "A column per task: what new ones read of the old."),
    ("packing", "Packing", ":material/dashboard:", "Many tasks in one layer: who owns which weight?"),
    ("lowrank", "Low rank", ":material/grid_on:", "Thin matrices beside a weight: how thin, and how to add them up?"),
    ("routing", "Expert routing", ":material/account_tree:", "Tokens find their experts while a mixture trains."),
    ("growing", "Growing experts", ":material/park:", "New experts come, old ones are frozen: who moves?"),
)


@st.cache_resource
def settle() -> None:
    """Once per server: one thread for small networks, and what is loaded by now left out of garbage collection."""
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first one loads half of torch
    gc.collect()
    gc.freeze()


settle()
st.set_page_config(page_title="cllab lab", page_icon=":material/school:", layout="wide")
st.navigation(
    [
        st.Page(path, title=title, icon=icon, help=text, url_path=name)
        for name, title, icon, text in PAGES
        if (path := LABS / f"{name}.py").is_file()
    ],
    position="top",
).run()
