"""Run the client programs against refusals, and count the replies."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from augu_api.config import ROOT

HERE = Path(__file__).parent
SIZES = {"120 KB": 120_000, "1 MB": 1_000_000, "6.9 MB": 6_900_000}
SECONDS = 600
GO = ("go", "run", str(HERE / "with_go.go"))
JAVA = ("java", str(HERE / "WithJava.java"))


class Program(NamedTuple):
    """A client program."""

    command: tuple[str, ...]
    package: str = ""
    """What else must be installed: a Python module, or a package of Node's."""

    @property
    def lacks(self) -> str:
        """What is not installed, if anything."""
        if not shutil.which(self.command[0]):
            return self.command[0]
        if self.command[0] == "node":
            found = not self.package or (HERE / "node_modules" / self.package).is_dir()
        else:
            found = not self.package or find_spec(self.package) is not None
        return "" if found else self.package


def _python(module: str, package: str = "") -> Program:
    return Program((sys.executable, "-m", f"tests.strangers.{module}"), package)


def _node(file: str, package: str = "") -> Program:
    return Program(("node", str(HERE / file)), package)


PROGRAMS = {
    "requests": _python("with_requests", "requests"),
    "httpx": _python("with_httpx", "httpx"),
    "aiohttp": _python("with_aiohttp", "aiohttp"),
    "curl": _python("with_curl"),
    "fetch": _node("with_fetch.mjs"),
    "axios": _node("with_axios.mjs", "axios"),
    "got": _node("with_got.mjs", "got"),
    "Go": Program(GO),
    "Java": Program(JAVA),
}
NODE_RED = _node("node_red.mjs", "@node-red/runtime")


class Refusal(NamedTuple):
    """Requests that the service refuses with `status`; each connection has one of the tokens."""

    status: int
    tokens: tuple[str, ...]
    accept: str = "application/json"


class Replies(NamedTuple):
    """How many replies a client got by status, and by its own name for the error how many it did not get."""

    statuses: Counter[int]
    lost: Counter[str]


def body_of(folder: Path, size: int) -> Path:
    """A file of `size` letters: base64, but not of a photo."""
    file = folder / f"{size}.txt"
    if not file.exists():
        file.write_bytes(b"A" * size)
    return file


def replies(name: str, url: str, refusal: Refusal, body: Path, count: int) -> Replies:
    """Run a client program: it posts the body `count` times over 4 connections that it keeps alive."""
    task = [url, ",".join(refusal.tokens), str(body), str(count), refusal.accept]
    command = [*PROGRAMS[name].command, *task]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=SECONDS)
    printed = json.loads(done.stdout)
    statuses: Counter[int] = Counter({int(status): times for status, times in printed["statuses"].items()})
    lost: Counter[str] = Counter(printed["lost"])
    assert statuses.total() + lost.total() == count, done.stdout
    return Replies(statuses, lost)
