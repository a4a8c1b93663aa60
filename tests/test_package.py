"""The wheel and the sdist: installed in an empty environment away from the checkout, they detect and serve."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from augu_api.config import EXAMPLE, PACKAGE, ROOT
from tests.helpers import BIN, OBJECTS, free_port, missing, wait_until
from tests.servers import Server

SOURCES = ("LICENSE", "NOTICE", "README.md", "augu_api", "pyproject.toml", "setup.cfg", "setup.py", "weights")
BARE = {"PATH": os.environ["PATH"], "WEB_CONCURRENCY": "1"}


def uv(*arguments: str | Path) -> None:
    """Run uv, without the network."""
    done = subprocess.run([BIN / "uv", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("built")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    uv("build", "--offline", "--no-build-isolation", "--python", sys.executable, folder)
    return folder / "dist"


@dataclass
class Installation:
    """A virtual environment with the package, and a home without anything."""

    folder: Path

    @property
    def packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder / "venv")}))

    @property
    def env(self) -> dict[str, str]:
        """A relative XDG_DATA_HOME counts as none."""
        return BARE | {"HOME": str(self.folder / "home"), "XDG_DATA_HOME": "relative"}

    @property
    def files(self) -> set[str]:
        """The files and folders of the package, without the code that Python compiles."""
        found = (self.packages / "augu_api").rglob("*")
        return {str(path.relative_to(self.packages)) for path in found if "__pycache__" not in path.parts}

    def command(self, *command: str | Path) -> list[str | Path]:
        return [self.folder / "venv" / "bin" / "augu-api", *command]

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run the command line in the home; what it prints."""
        done = subprocess.run(
            self.command(*command),
            env=self.env,
            cwd=self.folder / "home",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout


def installation(folder: Path, archive: Path, *, server: bool) -> Installation:
    """Install an archive into an environment that sees the packages that it needs, but not the checkout's augu_api.

    A .pth file puts the folder of these packages on the path, and ignores the .pth files in there.
    """
    made = Installation(folder)
    (folder / "home").mkdir()
    uv("venv", "--offline", "--python", sys.executable, folder / "venv")
    (made.packages / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    options = ["--offline", "--no-deps", "--no-build-isolation"]
    uv("pip", "install", *options, "--python", folder / "venv", archive)
    if not server:
        (made.packages / "tests.pth").unlink()
    return made


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel, installed."""
    [wheel] = built.glob("*.whl")
    return installation(tmp_path_factory.mktemp("installed"), wheel, server=True)


def test_the_wheel_has_every_file(built: Path) -> None:
    """Nothing of the package is left out, nor the model, and nothing else is in."""
    [wheel] = built.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    model = [ROOT / "weights" / name for name in ("README.md", "model.json", "model.onnx", "model.pth")]
    expected = {str(path.relative_to(ROOT)) for path in package}
    assert packed == expected | {f"augu_api/{path.relative_to(ROOT)}" for path in model}


def test_the_sdist(built: Path, installed: Installation, tmp_path: Path) -> None:
    """The sdist builds the same package, and detects."""
    [sdist] = built.glob("*.tar.gz")
    made = installation(tmp_path, sdist, server=True)
    assert made.files == installed.files
    assert "stop sign" in made.run("detect", ROOT / "examples" / "street.png")


def test_it_is_complete(installed: Installation) -> None:
    """It detects, checks itself, and keeps its data in the home of its user, not where it is installed."""
    before = set(installed.packages.rglob("*.*"))
    assert "stop sign" in installed.run("detect", ROOT / "examples" / "street.png")
    assert str(EXAMPLE.relative_to(ROOT)) in installed.run("demo")
    checks = installed.run("doctor")
    assert str(installed.packages / "augu_api" / "weights") in checks
    assert "onnx serves bundled and finds in example.png: stop sign, traffic light" in checks
    data = installed.folder / "home" / ".local" / "share" / "augu-api"
    assert {path.name for path in data.iterdir()} >= {"augu.db", "secret_key"}
    assert {path for path in installed.packages.rglob("*.*") if path.suffix != ".pyc"} == before


def test_it_serves(installed: Installation, tmp_path: Path) -> None:
    """`augu-api serve` answers the README's call, in a folder that has another augu_api, until SIGTERM."""
    (tmp_path / "augu_api").mkdir()
    (tmp_path / "augu_api" / "__init__.py").write_text("raise SystemExit('not this one')")
    env = installed.env | {"XDG_DATA_HOME": str(tmp_path / "share")}
    adding = installed.command("users", "add", "alice", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL")
    token = subprocess.check_output(adding, env=env, text=True).strip()
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        command = installed.command("serve", "--port", str(port), "--workers", "1")
        process = subprocess.Popen(command, env=env | {"PORT": "1"}, cwd=tmp_path, stdout=log, stderr=log)
    server = Server(port, process, env, tmp_path / "log")
    try:
        wait_until(server.is_ready)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
        reply = requests.post(server.url + OBJECTS, EXAMPLE.read_bytes(), headers=headers, timeout=60)
        assert [item["name"] for item in reply.json()["data"]["objects"]] == ["stop sign", "traffic light"]
        assert len(server.workers) == 1
    finally:
        server.stop()
    assert process.returncode == 0
    assert (tmp_path / "share" / "augu-api" / "augu.db").exists()


def test_only_the_client(built: Path, tmp_path: Path) -> None:
    """Without the extra `server`, the command line says in one line what to install."""
    [wheel] = built.glob("*.whl")
    bare = installation(tmp_path, wheel, server=False)
    assert bare.run("serve", code=1) == (
        "Error: No module named 'click'. The server needs Python 3.11 to 3.14, and: pip install 'augu-api[server]'\n"
    )


# --- where the pinned packages can be installed


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28"])
def test_platforms(tmp_path: Path, platform: str, version: str) -> None:
    """There is a wheel of every package for serving and training, on both architectures and each Python."""
    for requirements in ("requirements.txt", "requirements-train.txt"):
        assert refused(requirements, tmp_path, platform, version) == ""


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_musl(tmp_path: Path, architecture: str) -> None:
    """Systems with musl, such as Alpine, are not served, as the documents say."""
    said = refused("requirements.txt", tmp_path, f"{architecture}-unknown-linux-musl", "3.11")
    assert "no wheels with a matching platform tag" in said


def test_arm_of_32_bits(tmp_path: Path) -> None:
    """32-bit ARM is not served, as the documents say: onnxruntime has no wheel for it."""
    options: list[str | Path] = [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        tmp_path,
        "--disable-pip-version-check",
    ]
    platforms = [f"--platform={name}_armv7l" for name in ("manylinux_2_28", "manylinux2014", "linux")]
    command: list[str | Path] = [BIN / "pip", "download", *options, *platforms, "onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "connection" in done.stderr.lower():
        missing(f"an answer of the package registry ({done.stderr.strip()})")
    assert "(from versions: none)" in done.stderr


def refused(requirements: str, folder: Path, platform: str, version: str) -> str:
    """Why the pinned packages cannot be installed there; empty if they can. Nothing is downloaded."""
    pinned = folder / requirements
    pinned.write_text((ROOT / requirements).read_text().replace("-e .", ""))
    there: list[str | Path] = ["--python-platform", platform, "--python-version", version, "--target", folder / "none"]
    command: list[str | Path] = [BIN / "uv", "pip", "install"]
    command += ["--dry-run", "--no-deps", "--only-binary", ":all:", *there, "-r", pinned]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "No solution found" not in done.stderr:
        missing(f"an answer of the package registry ({done.stderr.strip()})")
    return done.stderr if done.returncode else ""
