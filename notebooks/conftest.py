"""How nbval runs the lessons (the rest of its settings stand in pyproject.toml and tests/nbval.cfg)."""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["IPYKERNEL_CELL_NAME"] = "<cell>"  # else a warning shows the kernel's own temporary path


def pytest_collectstart(collector):
    if type(collector).__name__ == "IPyNbFile":
        collector.skip_compare += ("stderr", "image/svg+xml")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    os.environ.pop("MPLBACKEND", None)  # Streamlit sets it on import; a kernel that inherits it shows no figure
