"""The layers of the package: its folders, and what may import what."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import augu_api
from augu_api.config import ROOT, Settings

MAX_MODULE, MAX_FUNCTION = 300, 20  # lines
PACKAGE = Path(augu_api.__file__).parent
LAYERS = [{"client", "core", "photos"}, {"detection", "store"}, {"web"}, {"app"}, {"operating"}]
"""The layers, lowest first: folders, except for `app` (app.py) and `core` (the other files outside folders)."""
FOREIGN = {
    "client": {"flask", "werkzeug", "sqlalchemy", "alembic", "marshmallow", "limits", "numpy"},
    "core": {"flask", "werkzeug", "sqlalchemy", "alembic", "marshmallow", "limits"},
    "photos": {"flask", "werkzeug", "sqlalchemy", "alembic", "marshmallow", "limits"},
    "detection": {"flask", "werkzeug", "sqlalchemy", "alembic", "limits"},
    "store": {"flask", "werkzeug", "marshmallow"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    """The layer of a file or folder of the package."""
    first, *rest = path.relative_to(PACKAGE).parts
    if rest or (PACKAGE / first).is_dir():
        return first
    return "app" if first == "app.py" else "core"


def height_of(layer: str) -> int:
    return next(height for height, layers in enumerate(LAYERS) if layer in layers)


def dotted(path: Path) -> str:
    """The name of a file's module."""
    return ".".join(("augu_api", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports: of `from a import b`, both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = f"{dotted(path.parent)}.{node.module}" if node.level else str(node.module)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def file_of(name: str) -> Path | None:
    """The file or folder of the package that a dotted name means, or the name's parent means."""
    parts = name.split(".")
    if parts[0] != "augu_api":
        return None
    for path in (PACKAGE.joinpath(*parts[1:]), PACKAGE.joinpath(*parts[1:-1])):
        for found in (path.with_suffix(".py"), path):
            if found.exists() and found != PACKAGE:
                return found
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A layer imports itself and those below; core and detection know neither a web framework nor a database."""
    layer = layer_of(path)
    for name in imported(path):
        assert name.partition(".")[0] not in FOREIGN.get(layer, set()), f"{path} imports {name}"
        if found := file_of(name):
            below = layer_of(found)
            assert below == layer or height_of(below) < height_of(layer), f"{path} imports {name}"


def test_the_client_stands_alone() -> None:
    """The client imports the standard library, Pillow and itself, so that the folder can be copied."""
    names = {name for path in (PACKAGE / "client").glob("*.py") for name in imported(path)}
    own = {name for name in names if name.startswith("augu_api.client.")}
    assert {name.partition(".")[0] for name in names - own} <= sys.stdlib_module_names | {"PIL"}


def test_only_config_reads_the_environment() -> None:
    """One file reads os.environ."""
    readers = {str(path.relative_to(PACKAGE)) for path in FILES if "os.environ" in path.read_text()}
    assert readers == {"config.py"}


def test_serving_imports_no_torch() -> None:
    """Only the torchvision engine, the bundled architecture, and training and export import torch."""
    importers = {
        path.relative_to(PACKAGE / "detection")
        for path in FILES
        if any(name.split(".")[0] in ("torch", "torchvision") for name in imported(path))
    }
    assert {path.parts[0] for path in importers} == {"torchvision.py", "nano", "training"}


def test_nothing_imports_onnxruntime_with_its_telemetry(tmp_path: Path) -> None:
    """Only augu_api.detection, which switches it off first, imports onnxruntime, and a script only after that.

    With telemetry, the import alone would make files in the home.
    """
    importers = {layer_of(path) for path in FILES if "onnxruntime" in imported(path)}
    assert importers == {"detection"}
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py"), ROOT / "wsgi.py"]
    assert [path for path in scripts if re.search(r"^(import|from) onnxruntime", path.read_text(), re.MULTILINE)] == []
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run([sys.executable, "-c", "import augu_api.detection.onnx"], env=env, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_command_starts_fast(settings: Settings) -> None:
    """Managing users imports only what that needs: anything else takes longer than the command itself."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); import augu_api.operating.cli as cli; "
    env = os.environ | {"AUGU_DATA_DIR": str(settings.data_dir)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code} cli.main(['users', 'list'])"], env=env, check=True, stdout=subprocess.PIPE
    )
    loaded = {name.partition(".")[0] for name in done.stdout.decode().split()}
    assert "sqlalchemy" in loaded
    assert {"flask", "numpy", "PIL", "marshmallow", "alembic", "onnxruntime", "torch"}.isdisjoint(loaded)


def test_commands_compose_no_application() -> None:
    """A command works with the settings and the database themselves, not with an application around them."""
    files = (PACKAGE / "operating" / "cli").glob("*.py")
    names = {name for path in files for name in imported(path)}
    assert not [name for name in names if re.match(r"flask|augu_api\.(app|web\.service)\b", name)]


def test_serving_an_export_does_without_training() -> None:
    """What a worker imports to serve an export has no torch, and nothing of what trains."""
    code = (
        "import sys, augu_api.app, augu_api.detection.onnx, augu_api.operating.worker; print(*sys.modules, sep='\\n')"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"torch", "augu_api.detection.training"}.isdisjoint(loaded)


@pytest.mark.parametrize("module", ["augu_api", "augu_api.client", "augu_api.tokens"])
def test_light_modules_load_no_server(module: str) -> None:
    """The modules for client programs load no web framework, database or numpy, and few modules in total."""
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # coverage loads more
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    heavy = {"flask", "werkzeug", "sqlalchemy", "marshmallow", "numpy", "PIL", "onnxruntime"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    assert len(loaded) < 200  # the standard library's http.client alone loads about 100


def test_no_import_cycle() -> None:
    """No module imports another that imports it, directly or through others."""
    modules = {dotted(path) for path in FILES}
    edges = {dotted(path): {name.removesuffix(".__init__") for name in imported(path)} & modules for path in FILES}
    graphlib.TopologicalSorter({name: found - {name} for name, found in edges.items()}).prepare()


def test_modules_and_functions_are_short() -> None:
    """No module has more than 300 lines, and no function more than 20."""
    assert [path for path in FILES if len(path.read_text().splitlines()) > MAX_MODULE] == []
    functions = [
        (path, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert [found for found in functions if found[2] > MAX_FUNCTION] == []


def test_no_test_module_is_imported() -> None:
    """Nothing imports a test module or conftest.py: shared code is in other modules of tests/."""
    importing = re.compile(r"\b(?:from|import) tests\.(?:deepstack\.)?(?:test_|conftest)")
    files = [path for pattern in ("*.py", "deepstack/*.py") for path in Path(__file__).parent.glob(pattern)]
    assert [path.name for path in files if importing.search(path.read_text())] == []
