"""pyproject.toml, constraints.txt and environment.yml agree, and name everything that is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}
IMPORT_NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow"}


def requirements(*extras: str) -> dict[str, Requirement]:
    """Name -> requirement: the library's own and those of `extras`."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def conda_lines() -> list[str]:
    """The conda packages of environment.yml, without the pip part."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return [line for line in listed if isinstance(line, str)]


def pins() -> dict[str, str]:
    """Name -> exact version in constraints.txt; a line of any other form is an error."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    matches = [re.fullmatch(r"([a-z0-9.-]+)==([0-9a-z.]+)", line) for line in lines if not line.startswith("#")]
    assert all(matches), "constraints.txt may hold only name==version: no hosts, paths, local builds or ranges"
    return {canonicalize_name(match[1]): match[2] for match in matches}


@pytest.mark.parametrize("name", requirements("lab", "lessons", "test"))
def test_every_range_has_a_floor_and_a_ceiling(name):
    operators = {part.operator for part in requirements("lab", "lessons", "test")[name].specifier}
    assert operators == {">=", "<"}


def test_the_extra_all_is_the_others_together():
    others = [extra for extra in EXTRAS if extra != "all"]
    assert [f"cllab[{','.join(others)}]"] == EXTRAS["all"]


def test_conda_environment_has_the_same_ranges():
    wanted = {
        CONDA_NAMES.get(name, name): str(requirement.specifier)
        for name, requirement in requirements("lab", "lessons", "test").items()
    }
    found = {Requirement(line).name: str(Requirement(line).specifier) for line in conda_lines()}
    python = found.pop("python")
    assert PROJECT["requires-python"] in python and "<" in python
    assert found.pop("pip") == ""
    assert found == wanted


def test_conda_environment_is_plain_names_with_a_comment_each():
    text = (ROOT / "environment.yml").read_text()
    environment = yaml.safe_load(text)
    assert environment["channels"] == ["conda-forge"]
    packages = [line for line in text.splitlines() if re.match(r"\s+- (?!conda-forge|pip:)", line)]
    assert len(packages) == len(conda_lines()) + 1  # and "-e ." for pip
    for line in packages:
        assert re.search(r"\S  +# \w+", line), f"say what it is for: {line}"
        assert not re.search(r"[^<>=]=[^<>=]+=|::|https?:", line), f"no builds, channels or addresses: {line}"


def test_constraints_pin_every_direct_dependency_inside_its_range():
    exact = pins()
    assert exact["torch"] == "2.13.0"
    for name, requirement in requirements("lab", "lessons", "test").items():
        pinned = exact.get(canonicalize_name(name))
        assert pinned is not None, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned), f"{name}=={pinned} is outside {requirement.specifier}"


def test_constraints_leave_the_cuda_build_of_torch_possible():
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton", "torchvision"))]


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="only the Makefile's own .venv is installed by constraints"
)
def test_the_makefiles_environment_holds_the_pinned_versions():
    exact = pins()
    for name in requirements("lab", "lessons", "test"):
        assert Version(version(name)).public == exact[canonicalize_name(name)]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("cllab", ("lessons",)),
        ("labs", ("lab",)),
        ("notebooks", ("lessons", "test")),
        ("tests", ("lab", "lessons", "test")),
    ],
)
def test_what_is_imported_is_declared(folder, extras):
    """Every package that the code under `folder` imports is one that pyproject.toml names for it."""
    declared = set(requirements(*extras)) | {"cllab", "labs", "tests"}
    for path in (ROOT / folder).rglob("*.py"):
        for name in imported_packages(path):
            known = name in sys.stdlib_module_names or IMPORT_NAMES.get(name, name) in declared
            assert known, f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not name for {folder}/"


def imported_packages(path: Path) -> set[str]:
    """Top-level names of the absolute imports in a file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names
