"""Measure this service beside others, on the same photo and weights, in one run: `make bench`.

Machines are faster at one moment than at the next, so each server is measured in ROUNDS rounds of turns of SECONDS, and
between them the model in process takes turns as well: servers are compared by what they make of that. Needs h2load
(nghttp2-client). Writes results.md, results.json and results.svg beside this file.
"""

import base64
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from io import BytesIO
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
import onnxruntime
import psutil
import skimage.data
import torch
from PIL import Image, ImageOps
from tabulate import tabulate
from torchvision.transforms.functional import pil_to_tensor

from augu_api.config import CORES, ROOT, Settings
from augu_api.detection.catalogue import find
from augu_api.detection.torchvision import build
from augu_api.photos import MAX_BYTES

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CLIENTS = 1, 2, 4, 8
MEGAPIXELS = 0.3, 1.0, 4.0, 12.0
SECONDS = float(os.environ.get("SECONDS", "2"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PORT = 8791


@dataclass
class Turn:
    """What one turn showed: milliseconds, and requests per second."""

    p50: float
    p95: float
    rate: float


@dataclass
class Result:
    """What was measured of one contestant; milliseconds, MB and seconds.

    turns: by the number of clients; beside: those that the model in process took between them, by its name
    """

    name: str
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    beside: dict[str, list[Turn]] = field(default_factory=dict)
    failed: int = 0
    pss: float | None = None
    start: float | None = None
    by_size: dict[str, float] = field(default_factory=dict)

    def usual(self, what: str, clients: int) -> float:
        """The figure of the median turn."""
        return usual(what, self.turns[clients])

    def compared(self, what: str, clients: int, name: str) -> float:
        """The figure, as a part of what the model in process had at the same time."""
        return self.usual(what, clients) / usual(what, self.beside[name])

    @property
    def best(self) -> int:
        """With how many clients it answers most requests a second."""
        return max(self.turns, key=lambda clients: self.usual("rate", clients))


def turn_of(milliseconds: list[float], rate: float) -> Turn:
    """Sum a turn up."""
    return Turn(statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[-1], rate)


def usual(what: str, turns: list[Turn]) -> float:
    """The figure of the median turn."""
    return statistics.median(getattr(turn, what) for turn in turns)


# --- the photo


def photo(megapixels: float) -> Image.Image:
    """A photo of 4 to 3, larger ones with fewer shades so that the PNG stays within 5 MB."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5 / 4) * 4 if megapixels != 0.3 else 640
    image = Image.fromarray(skimage.data.astronaut()).resize((width, width * 3 // 4), Image.Resampling.BICUBIC)
    for bits in (8, 6, 5, 4, 3):
        shaded = ImageOps.posterize(image, bits)
        if len(png(shaded)) <= MAX_BYTES:
            return shaded
    raise ValueError(megapixels)


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# --- in process


def timed(function: Callable[[], Any], seconds: float = SECONDS) -> list[float]:
    """Milliseconds of each call, warm."""
    for _ in range(5):
        function()
    times, deadline = [], time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1000)
    return times


def ready(kind: str, threads: int, megapixels: float) -> Callable[[], Any]:
    """One way to run the model, on pixels that are decoded already."""
    model = find("bundled", Settings())
    pixels = np.asarray(photo(megapixels))
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if kind == "onnx":
        session = onnxruntime.InferenceSession(model.export, options)
        return lambda: session.run(None, {"pixels": pixels})
    module = build(model)
    if kind == "plain":
        return plain(module, pixels, options)
    image = pil_to_tensor(photo(megapixels))
    return torch.inference_mode()(lambda: module([image / 255]))


once: Callable[[], Any]


def prepare(kind: str, threads: int) -> None:
    """In a process of its own: make ready for turns."""
    global once
    once = ready(kind, threads, 0.3)


def take_turn() -> list[float]:
    """In that process: a turn."""
    return timed(once)


def median_of(kind: str, threads: int, megapixels: float) -> float:
    """In that process: the median milliseconds for a photo of that size."""
    return statistics.median(timed(ready(kind, threads, megapixels)))


@dataclass
class Bare:
    """A contestant without HTTP: the model in `copies` processes at once, which show what the cores give together."""

    name: str
    kind: str
    threads: int
    copies: int = 1

    def __post_init__(self) -> None:
        self.pools: list[ProcessPoolExecutor] = []
        self.result = Result(self.name)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Its processes are there."""
        with ExitStack() as stack:
            args = get_context("spawn"), prepare, (self.kind, self.threads)
            self.pools = [stack.enter_context(ProcessPoolExecutor(1, *args)) for _ in range(self.copies)]
            self._all()
            yield

    @property
    def clients(self) -> int:
        """With how many clients of a server it is to be compared."""
        return 1 if self.copies == 1 else CLIENTS[-1]

    def weigh(self) -> None:
        """Measure it by size."""
        if self.copies == 1:
            with self.running():
                sizes = {size: self.pools[0].submit(median_of, self.kind, self.threads, size) for size in MEGAPIXELS}
                self.result.by_size = {str(size): job.result() for size, job in sizes.items()}

    def turn(self) -> Turn:
        """Take a turn."""
        times = self._all()
        turn = turn_of([t for each in times for t in each], sum(1000 / statistics.mean(each) for each in times))
        self.result.turns.setdefault(self.clients, []).append(turn)
        return turn

    def _all(self) -> list[list[float]]:
        return [job.result() for job in [pool.submit(take_turn) for pool in self.pools]]


def plain(module: Any, pixels: np.ndarray[Any, Any], options: onnxruntime.SessionOptions) -> Callable[[], Any]:
    """Export as torchvision does by itself, and run that."""
    image = torch.tensor(pixels).permute(2, 0, 1) / 255
    file: Any = BytesIO()
    names: dict[str, Any] = {"input_names": ["image"], "dynamic_axes": {"image": {1: "height", 2: "width"}}}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(module, ([image],), file, opset_version=17, dynamo=False, **names)
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    return lambda: session.run(None, {"image": image.numpy()})


# --- servers


@dataclass
class Server:
    """A contestant over HTTP: how it is started, and how it wants the photo."""

    name: str
    command: list[str]
    path: str
    form: str
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[psutil.Process]:
        """The server, once it has answered a whole request."""
        log = self.folder / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.command, env=os.environ | self.env, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )
        try:
            deadline = time.perf_counter() + 120
            while not self.answers():
                if time.perf_counter() > deadline:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield psutil.Process(process.pid)
        finally:
            processes = family(psutil.Process(process.pid))
            process.terminate()
            _, alive = psutil.wait_procs(processes, 15)
            for left in alive:
                left.kill()

    def measured(self, bare: list[Bare]) -> Result:
        """Start it, load it, weigh it, and let those in process take their turns beside it."""
        start, result = time.perf_counter(), Result(self.name)
        with self.running() as process, ExitStack() as stack:
            result.start = time.perf_counter() - start
            self.load(CLIENTS[-1])
            result.pss = pss(process)
            for size in MEGAPIXELS:
                result.by_size[str(size)] = statistics.median(ms for _, ms in self.load(1, size, 2 * SECONDS))
            for one in bare:
                stack.enter_context(one.running())
            for _, clients in product(range(ROUNDS), CLIENTS):
                rows = self.load(clients)
                good = [milliseconds for status, milliseconds in rows if status == 200]
                result.failed += len(rows) - len(good)
                result.turns.setdefault(clients, []).append(turn_of(good, len(good) / SECONDS))
                for one in bare:
                    if one.clients == clients:
                        result.beside.setdefault(one.name, []).append(one.turn())
        return result

    def load(self, clients: int, megapixels: float = 0.3, seconds: float = SECONDS) -> list[tuple[int, float]]:
        """h2load's requests: each one's status and milliseconds."""
        file, kind = self.body(megapixels)
        log = self.folder / "requests.log"
        log.unlink(missing_ok=True)
        command = ["h2load", "--h1", "-t", "1", "-c", str(clients), "-D", f"{seconds * 1000:.0f}ms"]
        command += ["--warm-up-time", "500ms", "-d", str(file), f"--log-file={log}"]
        for key, value in {"Content-Type": kind, **self.headers}.items():
            command += ["-H", f"{key}: {value}"]
        subprocess.run([*command, f"http://127.0.0.1:{PORT}{self.path}"], check=True, stdout=subprocess.PIPE)
        self.answers()  # so what h2load left unfinished at its end is done
        rows = [line.split() for line in log.read_text().splitlines()]
        return [(int(status), int(microseconds) / 1000) for _, status, microseconds in rows]

    def answers(self) -> bool:
        """Whether a whole request is answered."""
        file, kind = self.body()
        url, headers = f"http://127.0.0.1:{PORT}{self.path}", {"Content-Type": kind, **self.headers}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, file.read_bytes(), headers), timeout=20) as reply:
                return reply.status == 200
        except OSError:
            return False

    def body(self, megapixels: float = 0.3) -> tuple[Path, str]:
        """A file with the photo as the server's documentation sends it, and the content type."""
        file = self.folder / f"{self.form}-{megapixels}"
        if not file.exists():
            file.write_bytes(body(self.form, png(photo(megapixels)))[0])
        return file, body(self.form, b"")[1]


def body(form: str, image: bytes) -> tuple[bytes, str]:
    """The photo as the server's documentation sends it, and the content type."""
    if form == "json":
        return json.dumps({"data": base64.b64encode(image).decode()}).encode(), "application/json"
    head = '--photo\r\nContent-Disposition: form-data; name="image"; filename="photo.png"\r\n'
    head += "Content-Type: image/png\r\n\r\n"
    return head.encode() + image + b"\r\n--photo--\r\n", "multipart/form-data; boundary=photo"


def pss(process: psutil.Process) -> float:
    """Proportional set size of a process and its children, in MB."""
    return sum(member.memory_full_info().pss for member in family(process)) / 1e6


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    return [process, *process.children(recursive=True)]


def servers(folder: Path) -> Iterator[Server]:
    """Yield this service in its arrangements, and its peers with the torchvision module and with our export."""
    data = {"AUGU_DATA_DIR": str(folder / "data")}
    add = [BIN / "augu-api", "users", "add", "bench", "--coefficient", "100000"]
    add += ["--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL"]
    token = subprocess.run(add, env=os.environ | data, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    ours = {"Authorization": f"Bearer {token}"}
    for engine in ("onnx", "torchvision"):
        for workers in (CORES, 1):
            name = f"Augu API, {engine}, {workers} x {CORES // workers}"
            env = data | {"AUGU_ENGINE": engine, "WEB_CONCURRENCY": str(workers)}
            command = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{PORT}"]
            yield Server(name, command, "/images/classify/objects", "json", folder, env, ours)
    for engine in ("torchvision", "onnx"):
        for workers in (1, CORES):
            arrangement = f"{engine}, {workers} x {CORES // workers}"
            command = [sys.executable, str(HERE / "peer_litserve.py"), engine, str(workers), str(PORT)]
            yield Server(f"LitServe, {arrangement}", command, "/predict", "json", folder)
            env = {"PEER_ENGINE": engine, "PEER_WORKERS": str(workers), "BENTOML_DO_NOT_TRACK": "True"}
            command = [str(BIN / "bentoml"), "serve", "peer_bentoml:Detector"]
            command += ["--working-dir", str(HERE), "-p", str(PORT)]
            yield Server(f"BentoML, {arrangement}", command, "/detect", "multipart", folder, env)


# --- what is shown


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    rows = []
    for r in results:
        row: dict[str, Any] = {"": r.name}
        for clients in CLIENTS:
            shown = clients in r.turns and (clients == 1 or r.start)
            row[f"p50 / p95 ms, {clients} clients"] = (
                f"{r.usual('p50', clients):.0f} / {r.usual('p95', clients):.0f}" if shown else ""
            )
        row["req/s, best"] = f"{r.usual('rate', r.best):.1f}"
        row["PSS MB"] = f"{r.pss:.0f}" if r.pss else ""
        row["start s"] = f"{r.start:.1f}" if r.start else ""
        row |= {f"{size} MP ms": f"{r.by_size[str(size)]:.0f}" if r.by_size else "" for size in MEGAPIXELS}
        row["failed"] = r.failed or ""
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def ratios(results: list[Result]) -> list[str]:
    """The promises, each with its figure."""
    by, most, cores = {r.name: r for r in results}, CLIENTS[-1], _cores()
    default, single = by[f"Augu API, onnx, {CORES} x 1"], by[f"Augu API, onnx, 1 x {CORES}"]
    lines = []
    for served, threads in ((default, 1), (default, CORES), (single, CORES)):
        for other in ("eager module", "our export"):
            name = f"{other}, {_threads(threads)}"
            ratio = served.compared("p50", 1, name)
            lines.append(f"p50 of one client, {served.name} / {name}, in process: {ratio:.2f}")
    rate = default.compared("rate", most, cores)
    lines.append(f"req/s of {most} clients / {cores}: {rate:.2f}")
    for engine in ("torchvision", "onnx"):
        for peer in ("LitServe", "BentoML"):
            peers = [r for r in results if r.name.startswith(f"{peer}, {engine}")]
            best = max(r.compared("rate", r.best, cores) for r in peers)
            lines.append(f"req/s of {most} clients / the best of {peer} with {engine}: {rate / best:.2f}")
    lines.append(f"p95 / p50 of {most} clients: {default.usual('p95', most) / default.usual('p50', most):.2f}")
    lines.append(f"PSS a worker: {(default.pss or 0) / CORES:.0f} MB; start to first answer: {default.start:.1f} s")
    return lines


def _cores() -> str:
    return f"our export, {CORES} processes"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def draw(results: list[Result], path: Path) -> None:
    """Requests a second, as a part of what bare inference made at that moment: a bar each, fastest on top."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    parts = {r.name: r.compared("rate", r.best, _cores()) for r in results if r.start}
    names = sorted(parts, key=parts.__getitem__)
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(names) + 1))
    colours = ["#1565c0" if name.startswith("Augu") else "#9e9e9e" for name in names]
    bars = axes.barh(names, [parts[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlabel(f"requests per second / {_cores()}, best of 1 to 8 clients, 640 x 480")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    """Measure everything, and write it down."""
    if not shutil.which("h2load"):
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    kinds = {"eager module": "eager", "plain torchvision export": "plain", "our export": "onnx"}
    bare = [Bare(f"{name}, {_threads(n)}", kind, n) for n in (1, CORES) for name, kind in kinds.items()]
    bare.append(Bare(_cores(), "onnx", 1, CORES))
    for one in _bar(bare, "In process"):
        one.weigh()
    with tempfile.TemporaryDirectory() as folder:
        served = [
            server.measured(bare if server.name.startswith("Augu API, onnx") else bare[-1:])
            for server in _bar(list(servers(Path(folder))), "Servers")
        ]
    results = [one.result for one in bare] + served
    machine = f"{CORES} cores, {platform.machine()}, {cpu()}, {date.today()}"
    promises = "".join(f"- {line}\n" for line in ratios(results))
    text = f"Measured by `make bench` on {machine}.\n\n{table(results)}\n\n{promises}"
    (HERE / "results.md").write_text(text)
    raw = {"machine": machine, "results": [asdict(r) for r in results]}
    (HERE / "results.json").write_text(json.dumps(raw, indent=1))
    draw(results, HERE / "results.svg")
    print(text)


def _bar(steps: list[Any], label: str) -> Iterator[Any]:
    with click.progressbar(steps, label=label, file=sys.stderr) as bar:
        yield from bar


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
