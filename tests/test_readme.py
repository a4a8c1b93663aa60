"""README.md and docs/ are true: the table of settings, the links, and each command on a real installation.

test_commands runs a command if its program is in RUNS; ELSEWHERE names the commands that it cannot run, with the
reason. A command in neither fails.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from augu_api.config import ROOT
from tests.helpers import BIN, answers, free_port, missing, wait_until
from tests.readme import BLOCK, DOCUMENTS, README, SETTINGS, Command, commands, links, with_settings
from tests.servers import Postgres, Serve, Server, add

RUNS = {"augu-api", "createdb", "curl"}
BY_MAKE = "installs for minutes; CI runs `make check test`, and each start of a test is the gunicorn of `make run`"
BY_ROOT = "changes this machine; test_systemd and test_cluster start what it installs"
BY_ACCOUNT = "needs an account; test_procfile runs what the platform does"
BY_CONTAINER = "needs Docker; `make test-container` builds and starts the image without it"
EXAMPLE = "test_examples runs it"
RESTORE = "needs a stopped service; test_backup runs it"
METRICS = "test_monitoring runs it, with other paths"
TRAINING = "trains for hours; test_training and test_evaluation do it with few photos"
ELSEWHERE = {
    "make run": BY_MAKE,
    "pip install '.[server]'": "test_package installs it",
    "augu-api serve ": "serves until it is stopped; test_package starts it",
    "make test": BY_MAKE,
    "docker compose ": BY_CONTAINER,
    "mkdir -m 700 secrets": BY_CONTAINER,
    "printf 'AUGU_ENV=production\\nAUGU_SECRET_KEY_FILE": BY_CONTAINER,
    "cd /opt/augu-api && make install": BY_MAKE,
    "AUGU_MODEL=models/coins make run": BY_MAKE,
    "bash examples/objects.sh": EXAMPLE,
    "node examples/client.mjs": EXAMPLE,
    "make train": TRAINING,
    "augu-api weights evaluate models/coins": TRAINING,
    "augu-api weights check": "needs photos with boxes; test_photo_sets checks many sets",
    "augu-api weights pull": "downloads 78 MB; test_cli pulls from a server of its own",
    "augu-api weights export": "needs what was pulled; test_engines exports",
    "augu-api usage augu.log augu.log.1": "needs logs that were rotated; test_usage reads compressed ones",
    "journalctl ": "needs systemd's journal; test_usage pipes a log in",
    "sudo ": BY_ROOT,
    "printf 'AUGU_ENV=production": BY_ROOT,
    "heroku ": BY_ACCOUNT,
    "git push heroku": BY_ACCOUNT,
    "git pull": "changes this checkout",
    "augu-api restore augu-backup.gz": RESTORE,
    "augu-api restore --replace augu-backup.gz": RESTORE,
    "openssl rand -hex 32 | sudo tee": METRICS,
    "printf 'AUGU_METRICS_TOKEN": METRICS,
    "AUGU_DEEPSTACK=1": "serves until it is stopped; tests/deepstack/test_callers.py starts it",
}
COMMANDS = {document: list(commands(document.read_text())) for document in DOCUMENTS}
ALL = [command for of_document in COMMANDS.values() for command in of_document]
LANGUAGES = {"sh", "json", "console", "python", "js", "nginx", "ini", "text"}


def program(command: Command) -> str:
    """The first word that sets no variable."""
    return next(word for word in command.text.split() if not re.match("[A-Z_]+=", word))


def elsewhere(command: Command) -> bool:
    return command.text.startswith(tuple(ELSEWHERE))


def run_here(document: Path) -> list[Command]:
    return [command for command in COMMANDS[document] if not elsewhere(command)]


def test_the_settings() -> None:
    """The table of settings is what augu_api/config.py says; `make settings` generates it."""
    text = SETTINGS.read_text()
    assert "| `AUGU_ENV` |" in text
    assert with_settings(text) == text


MARKDOWN = sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")])


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document: Path) -> None:
    """Every relative link leads to an existing file."""
    assert [path for path in links(document) if not path.exists()] == []


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_files_and_tests(document: Path) -> None:
    """Every file and test that a document names exists."""
    text = document.read_text()
    files = re.findall(r"`((?:augu_api|benchmarks|deploy|docs|examples|tests|weights)/[\w./-]*)`", text)
    assert [file for file in files if not (ROOT / file).exists()] == []
    named = re.findall(r"(test_\w+\.py)(?:::(test_\w+))?", text)
    assert [
        (file, test)
        for file, test in named
        if not (path := ROOT / "tests" / file).is_file() or (test and f"def {test}(" not in path.read_text())
    ] == []


def locked() -> dict[str, str]:
    """The versions of the clients that the tests install, by package."""
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements-test.txt").read_text(), re.MULTILINE))
    node = json.loads((ROOT / "tests" / "strangers" / "package-lock.json").read_text())["packages"]
    names = ("node-red-contrib-deepstack", "@node-red/runtime")
    return pinned | {name: node[f"node_modules/{name}"]["version"] for name in names}


def test_the_versions_of_the_programs() -> None:
    """In the table of programs, what was run has the versions that the tests install, and works since a version."""
    versions, text = locked(), (ROOT / "docs" / "clients.md").read_text()
    table = text.partition("| program |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert len(rows) > 10
    for program, version, state, since, _ in rows:
        names = {name for name in versions if name in f"{program} {version}"}
        names |= {"@node-red/runtime"} if "Node-RED" in program else set()
        assert set(re.findall(r"\d+(?:\.\d+)+", version)) == {versions[name] for name in names}, program
        assert bool(names) is state.endswith("run"), program
        assert since == version_of("augu-api") or f"\n## {since}" in (ROOT / "CHANGELOG.md").read_text(), program


def test_the_index() -> None:
    """docs/README.md links to every other document of its folder, and README.md to docs/README.md."""
    index = ROOT / "docs" / "README.md"
    assert set(index.parent.glob("*.md")) - {index} <= set(links(index))
    assert index in links(README)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_has_a_language(document: Path) -> None:
    """Code is in fenced blocks of a known language, so that no command escapes test_commands."""
    text = document.read_text()
    assert {language for language, _ in BLOCK.findall(text)} <= LANGUAGES
    assert re.findall(r"^(?: {4}.*|\s*(?:```|~~~).*)", BLOCK.sub("", text), re.MULTILINE) == []


@pytest.mark.parametrize("command", ALL, ids=lambda command: command.text[:60])
def test_every_command_is_known(command: Command) -> None:
    """Every command in the documents is in RUNS, or in ELSEWHERE with the reason."""
    assert program(command) in RUNS or elsewhere(command), f"Add {command.text!r} to RUNS or ELSEWHERE"


def test_every_listed_command_is_in_a_document() -> None:
    """Every name in RUNS and ELSEWHERE is in a document."""
    assert [start for start in ELSEWHERE if not any(command.text.startswith(start) for command in ALL)] == []
    assert {program(command) for document in DOCUMENTS for command in run_here(document)} == RUNS


# --- the commands


@dataclass
class Site:
    """A folder with what the documents assume, a real server that uses it, and how commands are run there."""

    folder: Path
    server: Server
    replaced: dict[str, str]

    def run(self, command: Command) -> str:
        """Run a command in the shell and return its standard output. It must succeed, and so must curl's request."""
        if shutil.which(program(command), path=self.server.env["PATH"]) is None:
            missing(program(command))
        text = command.text
        for given, real in self.replaced.items():
            text = text.replace(given, real)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.server.env,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command.text}: {done.stderr.decode()}{done.stdout.decode(errors='replace')}"
        return done.stdout.decode(errors="replace")


@pytest.fixture
def site(tmp_path: Path, serve: Serve) -> Site:
    """A new installation with what the documents mention: photos, a log, a token in TOKEN."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    with Image.open(ROOT / "examples" / "street.png") as photo:
        photo.convert("RGB").save(folder / "photo.jpg")
    path = f"{BIN}:{os.environ['PATH']}"
    server = serve(AUGU_DATA_DIR=str(folder / "data"), AUGU_DEEPSTACK="1", CURL_HOME=str(folder), PATH=path)
    (folder / "augu.log").symlink_to(server.log)
    server.env["TOKEN"] = add(server, "reader", 1000)
    return Site(folder, server, {"http://127.0.0.1:8000": server.url})


def with_postgresql(site: Site, url: str) -> Site:
    """The site, with commands for PostgreSQL sent to a real one."""
    server = urlsplit(url)
    site.server.env |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "augu", "DATABASE_URL": url}
    site.replaced["postgresql://augu:password@localhost/augu"] = url
    return site


NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def shape(text: str) -> str:
    """A reply without its numbers and white space."""
    return re.sub(r"\s", "", NUMBER.sub("0", text))


def numbers(text: str) -> list[float]:
    """The numbers of a reply, apart from how long it took."""
    return [float(number) for number in NUMBER.findall(re.sub(r'"(took|duration|[a-zA-Z]+Ms)":[0-9]+', "", text))]


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if run_here(path)], ids=lambda path: path.name)
def test_commands(document: Path, site: Site, postgres_server: Postgres, redis: str) -> None:
    """On a new installation, the commands of a document work in order, and give the output that it shows."""
    subprocess.run(["dropdb", "--if-exists", f"--maintenance-db={postgres_server.url}", "augu"], check=True)
    with_postgresql(site, postgres_server.url.replace("/postgres", "/augu"))
    del site.server.env["DATABASE_URL"]
    site.replaced["redis://localhost:6379"] = redis
    for command in run_here(document):
        output = site.run(command)
        if command.output:
            assert shape(output) == shape(command.output), command.text
            assert numbers(output) == pytest.approx(numbers(command.output), rel=0.02), command.text
        for picture in re.findall(r"(?:-o|--annotate) (\S+)", command.text):
            (site.folder / picture).unlink()


# --- what test_commands does not run


def test_procfile(tmp_path: Path, postgres: str) -> None:
    """A platform only has to run the lines of the Procfile, with its own port and database."""
    port = free_port()
    env = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "AUGU_ENV": "production",
        "AUGU_SECRET_KEY": "s" * 64,
        "AUGU_DATA_DIR": str(tmp_path / "data"),
        "DATABASE_URL": postgres.replace("postgresql:", "postgres:"),
        "PORT": str(port),
    }
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    subprocess.run(["sh", "-c", lines["release"]], cwd=ROOT, env=env, check=True)
    web = subprocess.Popen(["sh", "-c", f"exec {lines['web']}"], cwd=ROOT, env=env)
    try:
        wait_until(lambda: answers(port))
        wait_until(lambda: requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=60).status_code == 200)
    finally:
        web.terminate()
        web.wait()
    assert not (tmp_path / "data" / "secret_key").exists()


def test_parsing() -> None:
    """Commands are found in blocks of `sh` and `console`, and nowhere else."""
    text = "Text\n    not a command\n\n```sh\none  # why\ntwo \\\n    on |\n    end\n```\n\n```python\nthree\n```\n"
    text += "```console\n$ four\n\n{a:\n  b}\n```\n"
    assert list(commands(text)) == [Command("one  # why"), Command("two  on | end"), Command("four", "\n{a:\n  b}\n")]
