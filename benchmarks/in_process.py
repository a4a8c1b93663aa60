"""The model without a server, in one or more processes."""

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from photos import photo
from results import CLIENTS, MEGAPIXELS, Result, Turn, turn_of
from torchvision.transforms.functional import pil_to_tensor

from augu_api.config import Settings
from augu_api.detection.catalogue import find
from augu_api.detection.torchvision import build

SECONDS = float(os.environ.get("SECONDS", "2"))

Inference = Callable[[], Any]


@dataclass
class Bare:
    """A contestant without HTTP: the model in `copies` processes at once."""

    name: str
    kind: str
    threads: int
    copies: int = 1

    def __post_init__(self) -> None:
        self.pools: list[ProcessPoolExecutor] = []
        self.result = Result(self.name)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the processes, and stop them afterwards."""
        with ExitStack() as stack:
            spawn = get_context("spawn")
            self.pools = [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(self.copies)]
            self._latencies()
            yield

    @property
    def clients(self) -> int:
        """The number of clients of a server with which this is comparable."""
        return 1 if self.copies == 1 else CLIENTS[-1]

    def measure_sizes(self) -> None:
        """Measure photos of several sizes."""
        if self.copies == 1:
            with self.running():
                jobs = {size: self.pools[0].submit(median_of, self.kind, self.threads, size) for size in MEGAPIXELS}
                self.result.by_size = {str(size): job.result() for size, job in jobs.items()}

    def turn(self) -> Turn:
        """Take a turn."""
        latencies = self._latencies()
        rate = sum(1000 / statistics.mean(each) for each in latencies)
        turn = turn_of([milliseconds for each in latencies for milliseconds in each], rate)
        self.result.turns.setdefault(self.clients, []).append(turn)
        return turn

    def _latencies(self) -> list[list[float]]:
        jobs = [pool.submit(take_turn, self.kind, self.threads) for pool in self.pools]
        return [job.result() for job in jobs]


def take_turn(kind: str, threads: int) -> list[float]:
    """In a process of a pool: the milliseconds of each call in a turn."""
    return timed(_prepared(kind, threads))


def median_of(kind: str, threads: int, megapixels: float) -> float:
    """In a process of a pool: the median milliseconds for a photo of this size."""
    return statistics.median(timed(prepare(kind, threads, megapixels)))


def timed(function: Inference, seconds: float = SECONDS) -> list[float]:
    """The milliseconds of each call, after a warm-up."""
    for _ in range(5):
        function()
    times, deadline = [], time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1000)
    return times


@cache
def _prepared(kind: str, threads: int) -> Inference:
    return prepare(kind, threads, MEGAPIXELS[0])


def prepare(kind: str, threads: int, megapixels: float) -> Inference:
    """A function that runs the model on a decoded photo: `onnx`, `plain` (torchvision's own export) or `eager`."""
    model = find("bundled", Settings())
    pixels = np.asarray(photo(megapixels))
    torch.set_num_threads(threads)
    if kind == "onnx":
        session = _session(model.export, threads)
        return lambda: session.run(None, {"pixels": pixels})
    module = build(model)
    if kind == "plain":
        return _plain(module, pixels, threads)
    image = pil_to_tensor(photo(megapixels))
    eager: Inference = torch.inference_mode()(lambda: module([image / 255]))
    return eager


def _session(graph: Path | bytes, threads: int) -> Any:
    import onnxruntime  # noqa: PLC0415 - after augu_api, which switches its telemetry off

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options)


def _plain(module: Any, pixels: NDArray[np.uint8], threads: int) -> Inference:
    """Export the module as torchvision does without our changes, and run that."""
    image = torch.tensor(pixels).permute(2, 0, 1) / 255
    file: Any = BytesIO()
    names: dict[str, Any] = {"input_names": ["image"], "dynamic_axes": {"image": {1: "height", 2: "width"}}}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(module, ([image],), file, opset_version=17, dynamo=False, **names)
    session = _session(file.getvalue(), threads)
    return lambda: session.run(None, {"image": image.numpy()})
