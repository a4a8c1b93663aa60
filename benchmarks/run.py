"""Measure this service beside others, on the same photo and weights, in one run: `make bench`.

Needs h2load (nghttp2-client). Writes results.md, results.json and results.svg beside this file.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
from augu_api.images import MAX_BYTES

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CLIENTS = 1, 2, 4, 8
MEGAPIXELS = 0.3, 1.0, 4.0, 12.0
SECONDS = int(os.environ.get("SECONDS", "5"))
PORT = 8791


@dataclass
class Result:
    """What was measured of one contestant; milliseconds, MB and seconds."""

    name: str
    p50: dict[str, float] = field(default_factory=dict)
    p95: dict[str, float] = field(default_factory=dict)
    rate: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    pss: float | None = None
    start: float | None = None
    by_size: dict[str, float] = field(default_factory=dict)


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


def in_process(kind: str, threads: int, seconds: float, megapixels: float) -> list[float]:
    """Time one way to run the model on pixels that are decoded already, in a process of its own."""
    model = find("bundled", Settings())
    pixels = np.asarray(photo(megapixels))
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if kind == "onnx":
        session = onnxruntime.InferenceSession(model.export, options)
        return timed(lambda: session.run(None, {"pixels": pixels}), seconds)
    module = build(model)
    if kind == "plain":
        return timed(plain(module, pixels, options), seconds)
    image = pil_to_tensor(photo(megapixels))
    with torch.inference_mode():
        return timed(lambda: module([image / 255]), seconds)


def in_process_by_size(kind: str, threads: int) -> dict[str, float]:
    """The median milliseconds for each size of the photo."""
    return {str(size): statistics.median(in_process(kind, threads, 2, size)) for size in MEGAPIXELS}


def plain(module: Any, pixels: np.ndarray[Any, Any], options: onnxruntime.SessionOptions) -> Callable[[], Any]:
    """Export as torchvision does by itself, and run that."""
    image = torch.tensor(pixels).permute(2, 0, 1) / 255
    file: Any = BytesIO()
    names: dict[str, Any] = {"input_names": ["image"], "dynamic_axes": {"image": {1: "height", 2: "width"}}}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(module, ([image],), file, opset_version=17, dynamo=False, **names)
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    return lambda: session.run(None, {"image": image.numpy()})


def measured_in_process(name: str, kind: str, threads: int, copies: int = 1) -> Result:
    """As a contestant; `copies` processes at once show what the cores give together."""
    result = Result(name)
    context = get_context("spawn")
    with ProcessPoolExecutor(copies, context) as pool:
        jobs = [pool.submit(in_process, kind, threads, SECONDS, 0.3) for _ in range(copies)]
        times = [job.result() for job in jobs]
        if copies == 1:
            result.by_size = pool.submit(in_process_by_size, kind, threads).result()
    put(result, copies, [t for each in times for t in each])
    result.rate[str(copies)] = sum(1000 / statistics.mean(each) for each in times)
    return result


def put(result: Result, clients: int, milliseconds: list[float]) -> None:
    result.p50[str(clients)] = statistics.median(milliseconds)
    result.p95[str(clients)] = statistics.quantiles(milliseconds, n=20)[-1]


# --- servers


@dataclass
class Contestant:
    """A server: how it is started, and how it wants the photo."""

    name: str
    command: list[str]
    path: str
    form: str
    env: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def body(form: str, image: bytes) -> tuple[bytes, str]:
    """The photo as the server's documentation sends it, and the content type."""
    if form == "json":
        return json.dumps({"data": base64.b64encode(image).decode()}).encode(), "application/json"
    head = '--photo\r\nContent-Disposition: form-data; name="image"; filename="photo.png"\r\n'
    head += "Content-Type: image/png\r\n\r\n"
    return head.encode() + image + b"\r\n--photo--\r\n", "multipart/form-data; boundary=photo"


@contextmanager
def running(contestant: Contestant, log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as out:
        env = os.environ | contestant.env
        process = subprocess.Popen(
            contestant.command, env=env, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, 15)
        for left in alive:
            left.kill()


def load_with(contestant: Contestant, file: Path, kind: str, clients: int, seconds: float) -> list[tuple[int, float]]:
    """h2load's requests: each one's status and milliseconds."""
    log = file.with_suffix(".log")
    log.unlink(missing_ok=True)
    headers = {"Content-Type": kind, **contestant.headers}
    command = ["h2load", "--h1", "-t", "1", "-c", str(clients), "-D", str(seconds), "--warm-up-time", "2"]
    command += ["-d", str(file), f"--log-file={log}"]
    for key, value in headers.items():
        command += ["-H", f"{key}: {value}"]
    subprocess.run([*command, f"http://127.0.0.1:{PORT}{contestant.path}"], check=True, stdout=subprocess.PIPE)
    rows = [line.split() for line in log.read_text().splitlines()]
    return [(int(status), int(microseconds) / 1000) for _, status, microseconds in rows]


def measured(contestant: Contestant, folder: Path) -> Result:
    """Start it, load it, weigh it."""
    result = Result(contestant.name)
    file = folder / "body"
    data, kind = body(contestant.form, png(photo(0.3)))
    file.write_bytes(data)
    start = time.perf_counter()
    with running(contestant, folder / "server.log") as process:
        while not answers(contestant, file, kind):
            if time.perf_counter() - start > 120:
                raise RuntimeError((folder / "server.log").read_text())
            time.sleep(0.05)
        result.start = time.perf_counter() - start
        load_with(contestant, file, kind, 8, 3)
        for clients in CLIENTS:
            rows = load_with(contestant, file, kind, clients, SECONDS)
            good = [milliseconds for status, milliseconds in rows if status == 200]
            result.failed += len(rows) - len(good)
            put(result, clients, good)
            result.rate[str(clients)] = len(good) / SECONDS
        result.pss = pss(process)
        for size in MEGAPIXELS:
            data, kind = body(contestant.form, png(photo(size)))
            file.write_bytes(data)
            result.by_size[str(size)] = statistics.median(ms for _, ms in load_with(contestant, file, kind, 1, 2))
    return result


def answers(contestant: Contestant, file: Path, kind: str) -> bool:
    """Whether a whole request is answered."""
    url, headers = f"http://127.0.0.1:{PORT}{contestant.path}", {"Content-Type": kind, **contestant.headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, file.read_bytes(), headers), timeout=20) as response:
            return response.status == 200
    except OSError:
        return False


def pss(process: psutil.Process) -> float:
    """Proportional set size of a process and its children, in MB."""
    family = [process, *process.children(recursive=True)]
    return sum(member.memory_full_info().pss for member in family) / 1e6


def contestants(folder: Path) -> Iterator[Contestant]:
    """Yield this service in its arrangements, and its peers with the torchvision module and with our export."""
    data = {"AUGU_DATA_DIR": str(folder / "data")}
    add = [BIN / "augu-api", "users", "add", "bench", "--coefficient", "100000"]
    add += ["--grant", "IMAGES_OBJECTS", "--grant", "EXPERIMENTAL"]
    token = subprocess.run(add, env=os.environ | data, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    ours = {"Authorization": f"Bearer {token}"}
    gunicorn = [str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{PORT}"]
    for engine in ("onnx", "torchvision"):
        for workers in (CORES, 1):
            env = data | {"AUGU_ENGINE": engine, "WEB_CONCURRENCY": str(workers)}
            name = f"Augu API, {engine}, {workers} x {CORES // workers}"
            yield Contestant(name, gunicorn, "/images/classify/objects", "json", env, ours)
    for engine in ("torchvision", "onnx"):
        for workers in (1, CORES):
            arrangement = f"{engine}, {workers} x {CORES // workers}"
            command = [sys.executable, str(HERE / "peer_litserve.py"), engine, str(workers), str(PORT)]
            yield Contestant(f"LitServe, {arrangement}", command, "/predict", "json")
            env = {"PEER_ENGINE": engine, "PEER_WORKERS": str(workers), "BENTOML_DO_NOT_TRACK": "True"}
            command = [
                str(BIN / "bentoml"),
                "serve",
                "peer_bentoml:Detector",
                "--working-dir",
                str(HERE),
                "-p",
                str(PORT),
            ]
            yield Contestant(f"BentoML, {arrangement}", command, "/detect", "multipart", env)


# --- what is shown


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    rows = []
    for r in results:
        row: dict[str, Any] = {"": r.name}
        row |= {
            f"p50 / p95 ms, {c} clients": f"{r.p50[c]:.0f} / {r.p95[c]:.0f}" for c in map(str, CLIENTS) if c in r.p50
        }
        row["req/s, best"] = f"{max(r.rate.values()):.1f}"
        row["PSS MB"] = f"{r.pss:.0f}" if r.pss else ""
        row["start s"] = f"{r.start:.1f}" if r.start else ""
        row |= {f"{size} MP ms": f"{ms:.0f}" for size, ms in r.by_size.items()}
        row["failed"] = r.failed or ""
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def ratios(results: list[Result]) -> list[str]:
    """The promises, each with its figure."""
    by = {r.name: r for r in results}
    ours = {1: by[f"Augu API, onnx, {CORES} x 1"], CORES: by[f"Augu API, onnx, 1 x {CORES}"]}
    lines = []
    for threads, served in ours.items():
        for other in ("eager module", "our export"):
            ratio = served.p50["1"] / by[f"{other}, {_threads(threads)}"].p50["1"]
            lines.append(f"p50 of one client over HTTP / {other} in process, {_threads(threads)}: {ratio:.2f}")
    default = ours[1]
    bare = by[f"our export, {CORES} processes"].rate[str(CORES)]
    lines.append(f"req/s of 8 clients / {CORES} processes of bare inference: {default.rate['8'] / bare:.2f}")
    for engine in ("torchvision", "onnx"):
        for peer in ("LitServe", "BentoML"):
            best = max(max(r.rate.values()) for r in results if r.name.startswith(f"{peer}, {engine}"))
            lines.append(f"req/s of 8 clients / the best of {peer} with {engine}: {default.rate['8'] / best:.2f}")
    lines.append(f"p95 / p50 of 8 clients: {default.p95['8'] / default.p50['8']:.2f}")
    lines.append(f"PSS a worker: {(default.pss or 0) / CORES:.0f} MB; start to first answer: {default.start:.1f} s")
    return lines


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def draw(results: list[Result], path: Path) -> None:
    """Requests a second, a bar each, fastest on top."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    served = sorted((r for r in results if r.start), key=lambda r: max(r.rate.values()))
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(served) + 1))
    colours = ["#1565c0" if r.name.startswith("Augu") else "#9e9e9e" for r in served]
    bars = axes.barh([r.name for r in served], [max(r.rate.values()) for r in served], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel(f"requests per second, best of 1 to 8 clients, {CORES} cores, 640 x 480")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    """Measure everything, and write it down."""
    if not shutil.which("h2load"):
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    results = []
    kinds = {"eager module": "eager", "plain torchvision export": "plain", "our export": "onnx"}
    bare = [(f"{name}, {_threads(n)}", kind, n, 1) for n in (1, CORES) for name, kind in kinds.items()]
    for job in [*bare, (f"our export, {CORES} processes", "onnx", 1, CORES)]:
        print(job[0], file=sys.stderr, flush=True)
        results.append(measured_in_process(*job))
    with tempfile.TemporaryDirectory() as folder:
        for contestant in contestants(Path(folder)):
            print(contestant.name, file=sys.stderr, flush=True)
            results.append(measured(contestant, Path(folder)))
    machine = f"{CORES} cores, {platform.machine()}, {cpu()}, {date.today()}"
    promises = "".join(f"- {line}\n" for line in ratios(results))
    text = f"Measured by `make bench` on {machine}.\n\n{table(results)}\n\n{promises}"
    (HERE / "results.md").write_text(text)
    raw = {"machine": machine, "results": [asdict(r) for r in results]}
    (HERE / "results.json").write_text(json.dumps(raw, indent=1))
    draw(results, HERE / "results.svg")
    print(text)


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
