"""The house keeps its shape: imports point one way, nothing lies about, no machine is named."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = {
    "README.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml", "constraints.txt",
    "environment.yml", "app.py", "cllab", "labs", "notebooks", "tests",
}  # fmt: skip

# Lower layers know nothing of higher ones; families stand side by side and never import one another.
BASE = {"checks", "device", "streams", "models", "metrics"}
FAMILIES = {"replay", "regularization", "isolation", "llm"}
TOOLS = {"plots", "player", "exercises", "bench"}
LAYERS = [BASE, {"training"}, FAMILIES, TOOLS]
ROOMS = set.union(*LAYERS)
ENTRANCES = {"__init__", "launch"}  # the package's front: its own imports are checked below


def files() -> list[str]:
    """The project's files as git lists them: tracked, and new ones that are not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are the project's is not known")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def modules() -> list[Path]:
    return sorted((ROOT / "cllab").rglob("*.py"))


def room(path: Path) -> str:
    """Which part of cllab a file belongs to: cllab/replay/er.py and cllab/replay.py are both "replay"."""
    return path.relative_to(ROOT / "cllab").with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, dotted, anywhere in it; relative imports are resolved."""
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    """The parts of cllab that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("cllab.")} & (ROOMS | ENTRANCES)


def layer(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if name in names)


def allowed(user: str, used: str) -> bool:
    """Whether part `user` of cllab may import part `used`."""
    if user == used:
        return True
    if user in FAMILIES and used in FAMILIES:
        return False
    return used in ROOMS and layer(used) <= layer(user)


def test_the_rule_itself_tells_right_from_wrong():
    assert allowed("replay", "training") and allowed("plots", "replay") and allowed("player", "plots")
    assert not allowed("replay", "regularization")
    assert not allowed("training", "replay")
    assert not allowed("metrics", "training")
    assert not allowed("replay", "launch")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    name = room(path)
    if name in ENTRANCES:
        assert rooms_used(path) <= {"exercises", "lesson"}
        return
    assert name in ROOMS, f"cllab/{name} is not a part that the layout knows"
    wrong = {used for used in rooms_used(path) if not allowed(name, used)}
    assert not wrong, f"cllab/{name} must not import cllab.{', cllab.'.join(sorted(wrong))}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_no_screen(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert "streamlit" not in packages
    assert not packages & {"labs", "app", "tests", "notebooks"}
    if room(path) != "player":
        assert not packages & {"anywidget", "ipywidgets"}, "Jupyter's widgets live in cllab/player only"


@pytest.mark.parametrize("path", [*modules(), *sorted((ROOT / "labs").rglob("*.py"))], ids=lambda path: path.name)
def test_a_file_is_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250, "past 250 lines something wants out"


@pytest.mark.parametrize("path", [path for path in modules() if path.name != "__init__.py"], ids=lambda path: path.name)
def test_a_file_begins_by_saying_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_nothing_else_at_the_top():
    top = {name.split("/")[0] for name in files()}
    assert {name for name in top if not name.startswith(".")} <= TOP


def test_generated_files_are_ignored():
    generated = re.compile(r"(^|/)(__pycache__|\.venv|build|dist|[^/]*\.egg-info|\.ipynb_checkpoints)(/|$)|\.pyc$")
    assert not [name for name in files() if generated.search(name)]


@pytest.mark.parametrize(
    "wrong",
    [
        r"(?<![\w.])/(work|root|home|tmp)/\w",  # a path of one machine
        r"\.(pypi|pythonhosted|npmjs)\.|\bpypi\.org",  # the host of a package index
        r"\b(TODO|FIXME|XXX)\b",  # something left undone
    ],
)
def test_the_project_tells_nothing_of_the_machine_it_was_written_on(wrong):
    pattern = re.compile(wrong)
    for name in files():
        path = ROOT / name
        if path == Path(__file__).resolve() or path.suffix in {".png", ".gz", ".npz", ".pt"}:
            continue
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
        found = pattern.search(text)
        assert not found, f"{name}: {text[max(0, found.start() - 40) : found.end() + 40]!r}"
