"""Every lesson: sections and limits of the template, true names and numbers, exercises that can be solved."""

import ast
import importlib
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

from cllab.exercises import check, exercises, lessons
from tests.tools.notebooks import LESSONS, SOURCES, sync

NOTEBOOKS = sorted(LESSONS.glob("[0-9][0-9]_*.ipynb"))
SECTIONS = [
    "Warm-up", "Why", "Predict", "By hand", "Equation to code", "The same in cllab", "Turn the knob",
    "Experiment", "What did you expect?", "Exercises", "Looks right, is wrong", "Limits", "Self-test",
    "Further reading",
]  # fmt: skip
FREE = "nbval-ignore-output"
FORBIDDEN = {
    "a shell cell": r"^\s*[!%]",
    "the network": r"https?://|urlopen|requests\.|urllib|fetch_openml|\bmnist\(",
    "a shell": r"subprocess|os\.system|get_ipython",
    "an assumed GPU": r"torch\.cuda|\.cuda\(",
    "output that nbval cannot compare": r"clear_output|interact\(|interactive\(|\.update\(.*display",
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name[:2])
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in prose_cells(notebook))


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def folds(notebook, kind: str) -> dict[str, str]:
    """{exercise id: text} of the folds called "Hint ID" or "Solution ID"."""
    found = re.findall(rf"<summary>{kind} (L[\d.]+)</summary>(.*?)</details>", prose(notebook), flags=re.DOTALL)
    assert len(found) == len(dict(found)), "two folds for one exercise"
    return dict(found)


def checked_names(notebook) -> dict[str, tuple[str, object]]:
    """{exercise id: (variable, cell)} from the lines `variable = check("ID", variable)`."""
    found = {}
    for cell in code_cells(notebook):
        for name, exercise_id, again in re.findall(
            r'^(\w+) = check\("([^"]+)", (\w+)\)$', cell.source, flags=re.MULTILINE
        ):
            assert name == again and exercise_id not in found
            found[exercise_id] = (name, cell)
    return found


def test_every_lesson_has_source_notebook_and_exercises():
    names = [path.stem for path in NOTEBOOKS]
    assert names and names == sorted(source.stem for source in SOURCES.glob("[0-9][0-9]_*.py"))
    assert [name[:2] for name in names] == list(lessons())


def test_title_and_sections_stand_in_the_templates_order(path, notebook):
    number = path.name[:2]
    first = notebook.cells[0].source
    assert f"# Lesson {number}. {lessons()[number][0]}" in first
    assert re.search(r"^\*\*[^*]+\?[^*]*\*\*$", first, flags=re.MULTILINE), "the title card asks a question"
    for row in (
        "memory cost",
        "stores data?",
        "needs a boundary while training?",
        "needs a task id at test?",
    ):
        assert f"| {row} |" in first
    assert re.search(r"\d+ minutes", first)
    anchors = re.findall(r'^<a id="(L\d\d-\d+)"></a>$', prose(notebook), flags=re.MULTILINE)
    assert anchors == [f"L{number}-{i}" for i in range(len(SECTIONS) + 1)]
    headings = re.findall(r'^<a id="[^"]+"></a>\n## (.*)$', prose(notebook), flags=re.MULTILINE)
    assert headings == [f"{i}. {title}" for i, title in enumerate(SECTIONS, start=1)]


def test_limits_of_the_template(path, notebook):
    text = re.sub(r"```.*?```|<[^>]+>", " ", prose(notebook), flags=re.DOTALL)
    words = re.findall(r"[A-Za-z0-9][\w.'*-]*", text)
    assert 45 <= len(notebook.cells) <= 65
    assert 1500 <= len(words) <= 2500
    assert path.stat().st_size <= 400_000
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 25
    assert max(len(line) for cell in code_cells(notebook) for line in cell.source.splitlines()) <= 125
    assert (
        sum(
            len(re.findall(r"ipywidgets\.\w*(?:Slider|Dropdown|Button|Text|Play)\(|Player\(", c.source))
            for c in code_cells(notebook)
        )
        <= 4
    )
    sections = re.split(r'<a id="L\d\d-\d+"></a>\n## ', prose(notebook))
    for title, most in (("2. Why", 150), ("12. Limits", 120)):
        section = next(section for section in sections if section.startswith(title))
        assert len(section.split()) <= most, title
    warm_up, self_test = sections[1], sections[13]
    assert warm_up.count("\n1. ") == warm_up.count("\n2. ") == 2 and "\n3. " not in warm_up
    assert self_test.count("\n4. ") == 2 and "\n5. " not in self_test
    assert 3 <= sections[11].count("<details>") <= 4
    assert re.search(r"\(\S*[\u4e00-\u9fff]", text), "terms carry the Chinese term in brackets"


def test_at_most_a_quarter_of_the_cells_is_free(notebook):
    cells = code_cells(notebook)
    free = [cell for cell in cells if FREE in cell.metadata.get("tags", [])]
    assert len(free) <= len(cells) / 4
    assert all(set(cell.metadata.get("tags", [])) <= {FREE} for cell in cells)
    assert not any("NBVAL_" in cell.source for cell in cells), "tags, not comments"


def test_notebook_is_executed_in_order_without_errors(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert "widgets" not in notebook.metadata
    assert not any("execution" in cell.metadata for cell in cells), "timing metadata"
    assert not any(cell.source.rstrip().endswith(";") for cell in cells)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_no_shell_no_network_no_gpu(notebook):
    for cell in code_cells(notebook):
        for what, pattern in FORBIDDEN.items():
            assert not re.search(pattern, cell.source, flags=re.MULTILINE), f"{what} in:\n{cell.source}"


def test_first_code_cell_is_the_set_up(path, notebook):
    assert code_cells(notebook)[0].source.startswith(f'import cllab\n\ncllab.setup("{path.name[:2]}"')


def test_regenerating_from_the_source_changes_nothing(path, notebook, tmp_path):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    sync(SOURCES / f"{path.stem}.py", copy)
    again = nbformat.read(copy, as_version=4)
    assert [(c.id, c.cell_type, c.source, c.metadata) for c in again.cells] == [
        (c.id, c.cell_type, c.source, c.metadata) for c in notebook.cells
    ]


def test_every_cllab_name_exists(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    dotted = set(re.findall(r"\bcllab(?:\.[A-Za-z_]\w*)+", text))
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cllab":
                dotted |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert dotted
    missing = [name for name in sorted(dotted) if not exists(name)]
    assert not missing


def exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        try:
            for attribute in parts[split:]:
                found = getattr(found, attribute)
        except AttributeError:
            return False
        return True
    return False


NUMBER = r"(?<![\w.])\d+\.\d+(?![\w.]*\w)"


def test_numbers_in_prose_are_printed_or_set_in_a_checked_cell_above(notebook):
    """Decimal fractions in running text stand in a checked cell or table above; the title may look ahead."""
    checked = [cell for cell in code_cells(notebook) if FREE not in cell.metadata.get("tags", [])]
    title, *rest = notebook.cells
    later = {number for cell in checked for number in re.findall(NUMBER, printed(cell))}
    assert set(re.findall(NUMBER, title.source)) <= later
    known = set()
    for cell in rest:
        if cell.cell_type == "code":
            if cell in checked:
                known |= set(re.findall(NUMBER, cell.source + printed(cell)))
            continue
        tables = "\n".join(line for line in cell.source.splitlines() if line.startswith("|"))
        known |= set(re.findall(NUMBER, tables))
        running = re.sub(r"```.*?```|^\|.*?$", "", cell.source, flags=re.DOTALL | re.MULTILINE)
        missing = set(re.findall(NUMBER, running)) - known
        assert not missing, f"{sorted(missing)} not printed above:\n{cell.source}"


def test_exercises_of_the_notebook_and_of_the_package_are_the_same(path, notebook):
    number = path.name[:2]
    expected = [exercise.id for exercise in lessons()[number][1]]
    assert 4 <= len(expected) <= 6
    assert expected == [f"L{number}.{i}" for i in range(1, len(expected) + 1)]
    assert list(checked_names(notebook)) == expected
    assert list(folds(notebook, "Hint")) == list(folds(notebook, "Solution")) == expected
    headings = re.findall(r"^### Exercise (\S+) ((?:\\\*){1,3}) (.+) \(\d+ min\)$", prose(notebook), flags=re.MULTILINE)
    assert [(found, title) for found, _, title in headings] == [(i, exercises()[i].title) for i in expected]
    assert {stars.count("*") for _, stars, _ in headings} == {1, 2, 3}
    for exercise in lessons()[number][1]:
        assert 2 <= len(exercise.known_wrong) <= 3
        assert exercise.is_value or (len(exercise.cases) >= 2 and exercise.random_case is not None)


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("CLLAB_HOME", str(tmp_path))
    monkeypatch.setattr(sys.modules["cllab.exercises.check"], "_failures", {})


def verdict(capsys, exercise_id, answer):
    capsys.readouterr()
    returned = check(exercise_id, answer)
    return returned, capsys.readouterr().out


def state_before(notebook, stop) -> dict:
    """What the cells above `stop` import and assign literally: enough to run a stub or a solution."""
    state = {}
    for cell in code_cells(notebook):
        if cell is stop:
            break
        tree = ast.parse(cell.source)
        kept = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) or is_literal(n)]
        exec(compile(ast.Module(kept, []), "cell", "exec"), state)
    return state


def is_literal(node) -> bool:
    """An assignment that only needs numpy: the toy matrices."""
    if not isinstance(node, ast.Assign):
        return False
    names = {inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)}
    return names <= {"np", "torch"}


def test_stubs_count_as_not_attempted(notebook, quiet, capsys):
    for exercise_id, (name, cell) in checked_names(notebook).items():
        stub = cell.source.split(f"{name} = check(")[0]
        state = state_before(notebook, cell)
        exec(stub, state)
        returned, text = verdict(capsys, exercise_id, state[name])
        assert text.startswith(f"[ ] {exercise_id} {exercises()[exercise_id].title}: not attempted yet.")
        assert returned is exercises()[exercise_id].reference
        assert text in printed(cell), "the notebook shows the untouched stub"


def test_solutions_are_right(notebook, quiet, capsys):
    for exercise_id, fold in folds(notebook, "Solution").items():
        name, cell = checked_names(notebook)[exercise_id]
        (solution,) = re.findall(r"```python\n(.*?)```", fold, flags=re.DOTALL)
        state = state_before(notebook, cell)
        exec(solution, state)
        returned, text = verdict(capsys, exercise_id, state[name])
        assert text.startswith(f"[v] {exercise_id} "), text
        assert returned is state[name]


def test_known_wrong_answers_are_named(path, quiet, capsys):
    for exercise in lessons()[path.name[:2]][1]:
        for wrong in exercise.known_wrong:
            returned, text = verdict(capsys, exercise.id, wrong.answer)
            assert text.startswith(f"[x] {exercise.id} "), text
            assert f"    hint: {wrong.sentence}\n" in text
            assert returned is exercise.reference
        sentences = [wrong.sentence for wrong in exercise.known_wrong] + [exercise.hint]
        assert len(set(sentences)) == len(sentences)
        assert "".join(sentences).isascii()


def test_a_crash_is_reported_with_the_hint(path, quiet, capsys):
    def crashes(*args):
        return args[99]

    for exercise in lessons()[path.name[:2]][1]:
        if not exercise.is_value:
            text = verdict(capsys, exercise.id, crashes)[1]
            assert text.startswith(f"[!] {exercise.id} {exercise.title}: your code raised IndexError: ")
            assert f"    hint: {exercise.hint}\n" in text
