"""The rooms of the house: what may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import augu_api

PACKAGE = Path(augu_api.__file__).parent
ROOMS = {
    "core": {"config", "flags", "tokens", "images", "drawing", "detection"},
    "store": {"models", "database", "accounts", "quotas", "migrations"},
    "web": {
        "extensions", "envelope", "headers", "schemas", "body", "auth", "metrics", "images_api", "deepstack_api",
        "session_api", "ops", "docs", "openapi", "examples",
    },
    "edge": {"__init__", "cli", "doctor", "logs", "usage", "worker"},
    "client": {"client"},
}  # fmt: skip
ORDER = list(ROOMS)
FOREIGN = {
    "core": {"flask", "werkzeug", "sqlalchemy", "alembic", "marshmallow", "limits"},
    "store": {"flask", "werkzeug", "marshmallow"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(part: str) -> str:
    return next(room for room, parts in ROOMS.items() if part in parts)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, `from a import b` as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_file_has_a_room() -> None:
    """A new file must be put somewhere."""
    assert {part_of(path) for path in FILES} == set().union(*ROOMS.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up(path: Path) -> None:
    """A room imports itself and the rooms above it, and core and store know no web framework."""
    room = room_of(part_of(path))
    for name in imported(path):
        top, _, rest = name.partition(".")
        assert top not in FOREIGN.get(room, set()), f"{path} imports {name}"
        inner = rest.partition(".")[0]
        if top == "augu_api" and any(inner in parts for parts in ROOMS.values()):
            assert ORDER.index(room_of(inner)) <= ORDER.index(room), f"{path} imports {name}"


def test_the_client_stands_alone() -> None:
    """The client imports the standard library and nothing else, so that the file can be copied; its room is last."""
    assert {name.partition(".")[0] for name in imported(PACKAGE / "client.py")} <= sys.stdlib_module_names
    assert ORDER[-1] == "client"


def test_only_config_reads_the_environment() -> None:
    """One file reads os.environ."""
    readers = {part_of(path) for path in FILES if "os.environ" in path.read_text()}
    assert readers == {"config"}


def test_only_the_torchvision_engine_imports_torch() -> None:
    """Torch stays out of all but its engine, the bundled architecture, and what makes exports and trains."""
    importers = {
        path.name for path in FILES if any(name.split(".")[0] in ("torch", "torchvision") for name in imported(path))
    }
    assert importers == {"torchvision.py", "nano.py", "export.py", "train.py"}


def test_the_command_line_does_without_torch() -> None:
    """No admin command waits for torch."""
    code = "import sys, augu_api.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
