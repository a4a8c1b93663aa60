"""The contestants over HTTP: this service in several configurations, LitServe and BentoML."""

import base64
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import psutil
from in_process import SECONDS, Bare
from photos import photo, png
from results import CLIENTS, MEGAPIXELS, Result, turn_of

from augu_api.config import CORES, ROOT

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PORT = 8791
ROUNDS = int(os.environ.get("ROUNDS", "3"))


@dataclass
class Server:
    """A server: how to start it, and how to send it a photo (`form` is `json` or `multipart`)."""

    name: str
    command: list[str]
    path: str
    form: str
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[psutil.Process]:
        """Start the server, wait until it has answered a request, and stop it afterwards."""
        log = self.folder / "server.log"
        with log.open("wb") as out:
            process = psutil.Popen(
                self.command, env=os.environ | self.env, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        try:
            deadline = time.perf_counter() + 120
            while not self.answers():
                if time.perf_counter() > deadline:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield process
        finally:
            stop(process)

    def measured(self, bare: list[Bare]) -> Result:
        """Start the server and measure it, in turns with the models in process."""
        start, result = time.perf_counter(), Result(self.name)
        with self.running() as process, ExitStack() as stack:
            result.start = time.perf_counter() - start
            self.load(CLIENTS[-1])
            result.pss = pss(process)
            for size in MEGAPIXELS:
                result.by_size[str(size)] = statistics.median(ms for _, ms in self.load(1, size, 2 * SECONDS))
            for model in bare:
                stack.enter_context(model.running())
            for _, clients in product(range(ROUNDS), CLIENTS):
                self._take_turn(clients, result)
                for model in bare:
                    if model.clients == clients:
                        result.beside.setdefault(model.name, []).append(model.turn())
        return result

    def _take_turn(self, clients: int, result: Result) -> None:
        replies = self.load(clients)
        good = [milliseconds for status, milliseconds in replies if status == 200]
        result.failed += len(replies) - len(good)
        result.turns.setdefault(clients, []).append(turn_of(good, len(good) / SECONDS))

    def load(
        self, clients: int, megapixels: float = MEGAPIXELS[0], seconds: float = SECONDS
    ) -> list[tuple[int, float]]:
        """Send requests with h2load; the status and the milliseconds of each reply."""
        file, content_type = self.body(megapixels)
        log = self.folder / "requests.log"
        log.unlink(missing_ok=True)
        command = ["h2load", "--h1", "-t", "1", "-c", str(clients), "-D", f"{seconds * 1000:.0f}ms"]
        command += ["--warm-up-time", "500ms", "-d", str(file), f"--log-file={log}"]
        for key, value in {"Content-Type": content_type, **self.headers}.items():
            command += ["-H", f"{key}: {value}"]
        subprocess.run([*command, f"http://127.0.0.1:{PORT}{self.path}"], check=True, stdout=subprocess.PIPE)
        self.answers()  # waits for the requests that h2load has abandoned at its end
        rows = [line.split() for line in log.read_text().splitlines()]
        return [(int(status), int(microseconds) / 1000) for _, status, microseconds in rows]

    def answers(self) -> bool:
        """Whether the server answers a request with 200."""
        file, content_type = self.body()
        url, headers = f"http://127.0.0.1:{PORT}{self.path}", {"Content-Type": content_type, **self.headers}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, file.read_bytes(), headers), timeout=20) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def body(self, megapixels: float = MEGAPIXELS[0]) -> tuple[Path, str]:
        """A file with the request's body, and the content type."""
        file = self.folder / f"{self.form}-{megapixels}"
        if not file.exists():
            file.write_bytes(body(self.form, png(photo(megapixels)))[0])
        return file, body(self.form, b"")[1]


def body(form: str, image: bytes) -> tuple[bytes, str]:
    """A request's body with the photo as the server documents it, and the content type."""
    if form == "json":
        return json.dumps({"data": base64.b64encode(image).decode()}).encode(), "application/json"
    head = '--photo\r\nContent-Disposition: form-data; name="image"; filename="photo.png"\r\n'
    head += "Content-Type: image/png\r\n\r\n"
    return head.encode() + image + b"\r\n--photo--\r\n", "multipart/form-data; boundary=photo"


def pss(process: psutil.Process) -> float:
    """The proportional set size of a process and its descendants, in MB."""
    return float(sum(member.memory_full_info().pss for member in family(process)) / 1e6)


def stop(process: psutil.Process) -> None:
    """Terminate a process, and kill those of its descendants that are left after 15 seconds."""
    processes = family(process)
    process.terminate()
    _, alive = psutil.wait_procs(processes, 15)
    for left in alive:
        left.kill()


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants."""
    return [process, *process.children(recursive=True)]


def own_servers(folder: Path) -> Iterator[Server]:
    """Augu API with each engine, as one worker per core and as one worker with all cores."""
    data = {"AUGU_DATA_DIR": str(folder / "data")}
    add = [str(BIN / "augu-api"), "users", "add", "bench", "--coefficient", "100000"]
    add += ["--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL"]
    token = subprocess.run(add, env=os.environ | data, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    for engine, workers in product(("onnx", "torchvision"), (CORES, 1)):
        name = f"Augu API, {engine}, {workers} x {CORES // workers}"
        env = data | {"AUGU_ENGINE": engine, "WEB_CONCURRENCY": str(workers)}
        env["AUGU_QUEUE"] = str(3 * CLIENTS[-1])  # all clients are one user, who gets a third of the queue
        command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{PORT}"]
        yield Server(name, command, "/images/classify/objects", "json", folder, env, headers)


def peers(folder: Path) -> Iterator[Server]:
    """LitServe and BentoML, each with the torchvision module and with our export."""
    for engine, workers in product(("torchvision", "onnx"), (1, CORES)):
        configuration = f"{engine}, {workers} x {CORES // workers}"
        command = [sys.executable, str(HERE / "peer_litserve.py"), engine, str(workers), str(PORT)]
        yield Server(f"LitServe, {configuration}", command, "/predict", "json", folder)
        env = {"PEER_ENGINE": engine, "PEER_WORKERS": str(workers), "BENTOML_DO_NOT_TRACK": "True"}
        command = [str(BIN / "bentoml"), "serve", "peer_bentoml:Detector", "--working-dir", str(HERE), "-p", str(PORT)]
        yield Server(f"BentoML, {configuration}", command, "/detect", "multipart", folder, env)
