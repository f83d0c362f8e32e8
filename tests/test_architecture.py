"""The arrows: imports go down only."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "maml_app"
BENEATH = [  # from the ground up: a room imports from lower floors only, and from no other room of its own
    {"errors", "lean", "version"},
    {"disk", "machine", "settings"},
    {"accounts"},
    {"network"},
    {"cases"},
    {"imaging"},
    {"phantom", "stores", "evaluation"},
    {"training", "labelling"},
    {"versions"},
    {"choosing", "correcting"},
    {"commands", "tasks", "server"},
    {"app", "__main__"},
    {"main", "sitecustomize"},
]
FLOOR = {name: floor for floor, names in enumerate(BENEATH) for name in names}
# what is not to be seen although it lies below: files and archives behind the port in cases/source.py, and the like
BARRED = {
    "tasks": {"stores", "phantom"},
    "server": {"stores", "phantom"},
    "app": {"commands"},
    "__main__": {"tasks"},
}
ANY = 39  # functions whose signatures say Any: only ever lower this
MODULES = sorted(path for path in ROOT.rglob("*.py") if not {"model", "lib", "logs", "bin"} & set(path.parts))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import absolutely"
            names.add(str(node.module))
    return names


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert not imports(path)
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("maml_app.")}
    upward = {other for other in ours - {here} if FLOOR[other] >= FLOOR[here]}
    assert not upward, f"{here} imports {upward}, which is not below it"
    assert not ours & BARRED.get(here, set()), f"{here} must not see {ours & BARRED[here]}"
    if here not in ("tasks", "server", "app"):
        assert not {name for name in imports(path) if name.split(".")[0] in ("monailabel", "fastapi")}
    if here == "network":
        assert not {name for name in imports(path) if name.split(".")[0] in ("nibabel", "numpy")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small_and_packages_do_no_work(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    if path.name == "__init__.py":
        assert [type(node) for node in ast.parse(text).body] == [ast.Expr]


def test_training_on_files_needs_few_libraries() -> None:
    """The core and the command line run where neither MONAI Label nor a DICOM library is installed."""
    absent = [
        "monailabel",
        "fastapi",
        "pydicom",
        "highdicom",
        "dicomweb_client",
        "requests",
        "skimage",
        "nrrd",
        "SimpleITK",
        "scipy",
        "sklearn",
        "matplotlib",
        "markdown",
        "PIL",
        "ray",
        "tensorboard",
    ]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from maml_app.__main__ import COMMANDS, Later; [Later(name).real() for name in COMMANDS]\n"
        "import maml_app.training.train, maml_app.evaluation.evaluate, maml_app.imaging.check\n"
        "import maml_app.choosing.simulate, maml_app.choosing.curves, maml_app.training.plan, benchmarks.rivals\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT.parent)


def test_monai_is_imported_without_what_it_only_tries() -> None:
    """Most of the time that a training or a command takes to begin; who asks for such a package later has it."""
    program = (
        "import importlib.util, sys; from maml_app.lean import SPARED\n"
        "import maml_app.network.window, maml_app.evaluation.metrics\n"
        "assert 'monai' in sys.modules and not SPARED & set(sys.modules), SPARED & set(sys.modules)\n"
        "assert all(map(importlib.util.find_spec, ('ignite', 'mlflow', 'sklearn')))\n"
    )
    # as MONAI Label starts a training
    environment = {**os.environ, "PYTHONPATH": f"{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT.parent, env=environment)


TESTS = sorted((ROOT.parent / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_tests_do_not_import_each_other(path: Path) -> None:
    """What several tests build stands in a module of its own, or in a conftest."""
    assert not {name for name in imports(path) if name.startswith("tests.") and ".test_" in name}


def test_public_signatures_name_their_types() -> None:
    """`Any` in the arguments and results of public functions: fewer than there were, and none more.

    What MONAI Label and its clients hand over and read is theirs to shape: tasks and routes are not counted.
    """
    found = []
    for path in MODULES:
        if {"tasks", "routes"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                hints = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
                if any("Any" in ast.unparse(hint) for hint in hints if hint):
                    found.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert len(found) <= ANY, found
