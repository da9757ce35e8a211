"""README and CONTRIBUTING keep their word: code runs, links lead somewhere, commands exist."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def python_blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text(name), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_readmes_code_runs(capsys):
    names: dict = {}
    for block in python_blocks("README.md"):
        exec(compile(block, "README.md", "exec"), names)
    accuracy = names["history"].accuracy
    assert accuracy.shape == (5, 5) and accuracy[4].mean() > 0.7
    assert "'EWC'" in capsys.readouterr().out


def test_the_worked_method_and_its_tests_run():
    names: dict = {}
    for block in python_blocks("CONTRIBUTING.md")[:2]:
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_") and inspect.isfunction(value)]
    assert len(tests) == 3
    for test in tests:
        test()


def test_the_worked_exercise_is_sound():
    names: dict = {}
    (block,) = [block for block in python_blocks("CONTRIBUTING.md") if "EXERCISES" in block]
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    (exercise,) = names["EXERCISES"]
    assert exercise.reference(*exercise.cases[0].args) == 0.25
    for wrong in exercise.known_wrong:
        assert any(wrong.answer(*case.args) != exercise.reference(*case.args) for case in exercise.cases)


def test_the_worked_page_runs():
    (block,) = [block for block in python_blocks("CONTRIBUTING.md") if "Controls(" in block]
    page = AppTest.from_string(block, default_timeout=60)
    page.query_params["res_capacity"] = "7"
    page.run()
    assert not page.exception
    assert page.metric[0].value == "7 of 500"
    page.slider(key="res_offers").set_value(5).run()
    assert page.metric[0].value == "5 of 5"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", document.read_text(encoding="utf-8"), re.MULTILINE))
    assert named and {a or b for a, b in named} <= targets


def test_every_name_in_the_readmes_table_exists():
    for module, names in re.findall(r"^\| `(cllab\.\w+)` \| (.*) \|$", text("README.md"), re.MULTILINE):
        found = importlib.import_module(module)
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(found, name), f"{module}.{name}"


def test_the_course_map_lists_every_lesson_there_is():
    numbers = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    here = re.findall(r"^\| (\d\d) \| .* \| \[here\]", text("README.md"), re.MULTILINE)
    assert numbers and here == numbers
