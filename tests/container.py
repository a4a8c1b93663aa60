"""The container: built without a daemon or a registry of images, and started on a read-only file system as its user.

buildah builds it on a base that debootstrap makes. `make test-container` runs this, as root; it takes minutes, so
`make test` does not.
"""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from augu_api.config import EXAMPLE, ROOT
from tests.helpers import OBJECTS, missing, wait_until
from tests.servers import Server

BASE = "docker.io/library/debian:trixie-slim"
DEBIAN = "http://deb.debian.org/debian"
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")  # as Docker's
CERTIFICATES = Path("/etc/ssl/certs")
MAX_BYTES = 350_000_000
PORT = 8000
SECRET = "0123456789abcdef" * 2


@dataclass
class Image:
    """The built image, and a file system made from it."""

    store: Path
    root: Path
    config: dict[str, Any]
    size: int

    @property
    def environ(self) -> dict[str, str]:
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    def command(self, data: Path, *arguments: str) -> list[str]:
        """Run it as a container engine does: its entry point, its user, a read-only file system and a volume."""
        prepare = (
            'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount --rbind /dev "$0/dev" && '
            'mount -t proc proc "$0/proc" && mount --bind "$1" "$0/var/lib/augu-api" && shift && '
            'exec chroot --userspec="$AS" "$0" "$@"'
        )
        program = [*self.config["Entrypoint"], *(arguments or self.config["Cmd"])]
        return ["unshare", "--mount", "sh", "-c", prepare, str(self.root), str(data), *program]


def buildah(store: Path, *arguments: str | Path) -> str:
    """Run buildah with a store of its own; what it prints."""
    places: list[str | Path] = ["--storage-driver", "vfs", "--root", store / "root", "--runroot", store / "run"]
    command: list[str | Path] = ["buildah", *places, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout.strip()


def make_base(store: Path) -> None:
    """Make the image that the Dockerfile starts from."""
    container = buildah(store, "from", "scratch")
    root = Path(buildah(store, "mount", container))
    subprocess.run(["debootstrap", "--variant=minbase", "trixie", root, DEBIAN], check=True, stdout=subprocess.DEVNULL)
    for folder in LEFT_OUT:
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    buildah(store, "umount", container)
    buildah(store, "commit", "--rm", container, BASE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built from this checkout."""
    for program in ("buildah", "debootstrap"):
        if shutil.which(program) is None or os.geteuid() != 0:
            missing(f"{program}, or root,")
    store = tmp_path_factory.mktemp("store")
    make_base(store)
    mirror = [f"--volume={CERTIFICATES}:/run/certificates:ro"]
    mirror += ["--build-arg=PIP_CERT=/run/certificates/ca-certificates.crt"]
    buildah(store, "build", "--isolation=chroot", "--pull=never", "--format=docker", *mirror, "--tag=augu-api", ".")
    listed = json.loads(buildah(store, "inspect", "--type=image", "augu-api"))["Docker"]
    container = buildah(store, "from", "--pull=never", "localhost/augu-api")
    root = Path(buildah(store, "mount", container))
    size = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    yield Image(store, root, listed["config"], size)
    buildah(store, "umount", "--all")
    shutil.rmtree(store)


@pytest.fixture
def container(image: Image, tmp_path: Path) -> Iterator[Server]:
    """The service in the container."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "secret").write_text(SECRET)
    user = int(subprocess.check_output(["chroot", image.root, "id", "-u", image.config["User"]]))
    for path in (data, data / "secret"):
        os.chown(path, user, user)
    given = {"AUGU_ENV": "production", "AUGU_SECRET_KEY_FILE": "/var/lib/augu-api/secret", "WEB_CONCURRENCY": "1"}
    env = image.environ | given | {"AS": f"{user}:{user}"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(image.command(data), env=env, stdout=log, stderr=log)
    server = Server(PORT, process, env, tmp_path / "log")
    try:
        wait_until(server.is_ready)
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def test_the_image(image: Image) -> None:
    """It is small, runs as a user without rights, and says how to check its health and where its data are."""
    assert image.size < MAX_BYTES
    assert image.config["User"] == "augu"
    assert image.config["Volumes"] == {"/var/lib/augu-api": {}}
    assert image.config["Healthcheck"]["Test"][0] == "CMD"
    pinned = {line.split(" ;")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    found = {
        path.name.split("-")[0].lower() for path in image.root.glob("opt/augu-api/lib/*/site-packages/*.dist-info")
    }
    assert found - {name.split("==")[0].replace("-", "_") for name in pinned} == {"augu_api"}


def test_it_serves(image: Image, container: Server, tmp_path: Path) -> None:
    """It answers the README's call, cannot write to its file system, and its health check sees it."""
    add = ("users", "add", "alice", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL")
    token = subprocess.check_output(image.command(tmp_path / "data", *add), env=container.env, text=True).strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
    reply = requests.post(container.url + OBJECTS, EXAMPLE.read_bytes(), headers=headers, timeout=60)
    assert [item["name"] for item in reply.json()["data"]["objects"]] == ["stop sign", "traffic light"]
    check = ["chroot", str(image.root), *image.config["Healthcheck"]["Test"][1:]]
    assert subprocess.run(check, env=container.env, check=False).returncode == 0
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    assert "Uid:\t10001\t10001\t10001\t10001" in status
    writing = ["nsenter", f"--target={container.process.pid}", "--mount", "--root", "touch", "/opt/augu-api/x"]
    done = subprocess.run(writing, capture_output=True, text=True, check=False)
    assert "Read-only file system" in done.stderr


def test_it_stops(image: Image, container: Server, tmp_path: Path) -> None:
    """SIGTERM ends it within 10 seconds, and every request that it had accepted is answered."""
    add = ("users", "add", "bob", "--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL", "--coefficient", "100")
    token = subprocess.check_output(image.command(tmp_path / "data", *add), env=container.env, text=True).strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
    statuses: list[int] = []
    lost: list[Exception] = []

    def call() -> None:
        """Ask until nothing listens any more."""
        while True:
            try:
                reply = requests.post(container.url + OBJECTS, EXAMPLE.read_bytes(), headers=headers, timeout=60)
            except requests.ConnectionError as error:
                lost.extend([] if "Connection refused" in str(error) else [error])
                return
            statuses.append(reply.status_code)

    clients = [threading.Thread(target=call) for _ in range(2)]
    for client in clients:
        client.start()
    wait_until(lambda: len(statuses) > 10)
    since = time.monotonic()
    container.stop()
    assert time.monotonic() - since < 10
    assert container.process.returncode == 0
    for client in clients:
        client.join(60)
    assert set(statuses) == {200}
    assert lost == []
