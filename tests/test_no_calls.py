"""Neither the service nor the command line calls anybody by itself, or leaves files in the home.

Everything runs in a network namespace with a default route and a resolver that lead to nobody, so that every attempt is
recorded, also one by a dependency.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from PIL import Image

from augu_api.config import ROOT
from augu_api.operating.cli import main
from tests.helpers import METRICS_TOKEN, OBJECTS
from tests.networks import ELSEWHERE, Isolated, isolated
from tests.servers import Server, add, call, serving

STREET = ROOT / "examples" / "street.png"
PHOTOS = 12
BOXES = "--images", "photos", "--annotations", "photos/boxes.json"
PROCESSES = [
    [
        ["weights", "check", *BOXES],
        ["weights", "evaluate", "bundled", *BOXES, "--pictures", "pictures"],
        ["weights", "train", "bundled", *BOXES, "--steps", "1", "--batch", "1", "--output", "trained"],
    ],
    [["detect", str(STREET), "--annotate", "boxes.png"]],
    [["doctor"]],
    [
        ["db", "upgrade"],
        ["db", "current"],
        ["users", "add", "bob"],
        ["users", "grant", "bob", "EXPERIMENTAL"],
        ["users", "revoke", "bob", "EXPERIMENTAL"],
        ["users", "quota", "bob", "2"],
        ["users", "ban", "bob"],
        ["users", "unban", "bob"],
        ["users", "show", "bob"],
        ["users", "list"],
        ["tokens", "regenerate", "bob"],
        ["users", "rename", "bob", "robert"],
        ["usage", os.devnull],
        ["backup", "backup.gz"],
        ["users", "remove", "robert"],
        ["restore", "--replace", "backup.gz"],
        ["demo"],
        ["weights", "list"],
        ["db", "downgrade", "base"],
    ],
]
"""The commands that each process runs, one after the other."""
NOT_RUN = {
    "serve": "the test's server is the same gunicorn with the same configuration",
    "weights export": "`weights train` exports too",
    "weights pull": "downloads from AUGU_WEIGHTS_URL, on demand",
}
CI = {"TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "TRAVIS", "JENKINS_URL", "CODEBUILD_BUILD_ID", "BUILDKITE"}
"""Where one of these is set, onnxruntime sends nothing, and a test would show nothing."""
ONE_BY_ONE = """
import json, sys
from augu_api.operating.cli import main
for command in json.loads(sys.argv[1]):
    main(command, standalone_mode=False)
"""


@dataclass
class Site:
    """A folder with an empty home, in a network of its own."""

    folder: Path
    network: Isolated

    @property
    def env(self) -> dict[str, str]:
        """The environment of an ordinary user, who even asks for telemetry."""
        changed = {"HOME": str(self.home), "ORT_DISABLE_TELEMETRY": "0", "OMP_NUM_THREADS": "1"}
        left_out = CI | {name for name in os.environ if name.startswith(("XDG_", "MPL", "AUGU_"))}
        return {name: value for name, value in os.environ.items() if name not in left_out} | changed

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, name: str, process: list[list[str]]) -> None:
        """Run the commands of a process on a data folder of this name."""
        env = self.env | {"AUGU_DATA_DIR": str(self.folder / name)}
        program = [*self.network.within, sys.executable, "-c", ONE_BY_ONE, json.dumps(process)]
        done = subprocess.run(program, env=env, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)


def photos(folder: Path) -> None:
    """Labelled photos, each another part of one photo, and a copy of the bundled model in `copy`."""
    street, content = Image.open(STREET).convert("RGB"), dict[str, list[object]](images=[], annotations=[])
    (folder / "photos").mkdir()
    for n in range(PHOTOS):
        part = street.crop((8 * n, 0, 8 * n + 320, 240))
        part.save(folder / "photos" / f"{n}.png")
        image = {"id": n + 1, "file_name": f"{n}.png", "width": part.width, "height": part.height}
        box = {"id": n + 1, "image_id": n + 1, "category_id": 1, "bbox": [50, 60, 90, 80], "area": 7200, "iscrowd": 0}
        content["images"].append(image)
        content["annotations"].append(box)
    content["categories"] = [{"id": 1, "name": "stop sign"}]
    (folder / "photos" / "boxes.json").write_text(json.dumps(content))
    (folder / "copy").mkdir()
    for name in ("model.json", "model.pth"):
        (folder / "copy" / name).write_bytes((ROOT / "weights" / name).read_bytes())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An installation nobody can be reached from."""
    photos(tmp_path)
    (tmp_path / "home").mkdir()
    with isolated() as network:
        yield Site(tmp_path, network)


def commands(command: click.Command, *name: str) -> Iterator[str]:
    """The names of all commands."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found
            yield from commands(found, *name, each)
    else:
        yield " ".join(name)


def test_every_command_is_run() -> None:
    """The next test runs every command, or NOT_RUN has the reason."""
    run = {" ".join(command) for process in PROCESSES for command in process}
    assert {name for name in commands(main) if not any(f"{each} ".startswith(f"{name} ") for each in run)} == {*NOT_RUN}


def ask(server: Server, network: Isolated) -> None:
    """Ask a server for its pages, its metrics, and for what is on a photo, in each form."""
    token = add(server)
    for path, sent in {"/": "", "/docs": "", "/openapi.json": "", "/metrics": METRICS_TOKEN, "/session": token}.items():
        assert network.inside(call, server.port, path, token=sent).status == 200
    for accept in ("application/json", "image/png"):
        headers = {"Content-Type": "image/png", "Accept": accept}
        assert network.inside(call, server.port, OBJECTS, STREET.read_bytes(), token, **headers).status == 200
    assert network.inside(call, server.port, "/v1/vision/detection", b"", token).status == 400


def test_nobody_is_called(site: Site) -> None:
    """No command and no request makes the service, or anything that it uses, send a packet or look up a name.

    Nor is there a file in the home afterwards, apart from matplotlib's list of fonts.
    """
    network, folder = site.network, site.folder
    with ThreadPoolExecutor(2) as pool, serving(folder) as serve:
        within = (*network.within, "env", "-i", *(f"{name}={value}" for name, value in site.env.items()))
        settings = {"AUGU_METRICS_TOKEN": METRICS_TOKEN, "AUGU_DEEPSTACK": "1", "AUGU_DATA_DIR": str(folder / "served")}
        server = network.inside(serve, within=(*within, *(f"{name}={value}" for name, value in settings.items())))
        runs = [pool.submit(site.run, f"data {n}", process) for n, process in enumerate(PROCESSES)]
        ask(server, network)
        for run in runs:
            run.result()
    assert network.sent() == []
    left = [path.relative_to(site.home) for path in site.home.rglob("*") if path.is_file()]
    assert [path for path in left if path.parent.name != "matplotlib"] == []
    network.inside(send_elsewhere)
    assert [packet.partition(",")[0] for packet in network.sent()] == [ELSEWHERE]


def send_elsewhere() -> None:
    """Send a packet that is recorded, so that the test shows something."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (ELSEWHERE, 9))
