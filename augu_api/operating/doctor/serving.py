"""Checks of the model, engine and workers."""

import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from augu_api import detection
from augu_api.config import CORES, EXAMPLE, Settings
from augu_api.detection import Detector, ModelUnavailable
from augu_api.detection.catalogue import PUBLISHED, Model, find
from augu_api.detection.engines import load, optional
from augu_api.memory import CGROUPS, OWN, WORKER, fitting, folders, limit, needed
from augu_api.operating.doctor.findings import Finding, ok, problem, warning

MB = 10**6


def model(settings: Settings) -> Iterator[Finding]:
    """The weights match their sha256, the export was made from them, and the engine detects objects."""
    try:
        chosen = find(settings.model, settings)
    except ModelUnavailable as error:
        yield problem("model", error, "correct AUGU_MODEL, or restore the folder")
        return
    yield _weights(chosen)
    if settings.engine != "torchvision":
        yield _export(chosen, settings)
    try:
        yield try_detector(load(settings))
    except ModelUnavailable as error:
        yield problem("engine", error)


def _weights(chosen: Model) -> Finding:
    try:
        chosen.verify()
    except ModelUnavailable as error:
        return warning("weights", error) if chosen.export.is_file() else problem("weights", error)
    return ok("weights", f"{chosen.weights} matches its sha256")


def _export(chosen: Model, settings: Settings) -> Finding:
    try:
        optional("onnx").load(chosen, settings.engine_threads)
    except ModelUnavailable as error:
        return problem("export", error) if settings.engine == "onnx" else warning("export", error)
    return ok("export", f"{chosen.export} loads and was made from these weights")


def try_detector(detector: Detector) -> Finding:
    """The engine and the model, and the objects that they find in the example photo."""
    serves = f"{detector.facts['engine']} serves {detector.facts['model']}"
    pixels = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    found = detection.select(detector.detect(pixels), min_score=60, limit=100, names=None)
    if found:
        return ok("engine", f"{serves} and finds in {EXAMPLE.name}: {', '.join(one.name for one in found)}")
    if detector.facts["model"] in ("bundled", *PUBLISHED):
        return problem("engine", f"{serves} and finds nothing in {EXAMPLE}", "restore the weights and the export")
    return ok("engine", f"{serves} and finds nothing in {EXAMPLE.name}, which may be right for this model")


def workers(settings: Settings, own: Path = OWN, root: Path = CGROUPS) -> Iterator[Finding]:
    """The workers fit the cores and the memory of this machine, or of this process's cgroups, if they have less.

    What a worker takes beside its photos is estimated by the peak of this process, which has loaded the model.
    """
    cores, memory = min([CORES, *_quotas(own, root)]), limit(own, root)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    each = max(peak, WORKER)
    all_of_it = needed(settings.workers, settings.max_pixels, each)
    found = (
        f"{settings.workers} workers need up to {all_of_it / MB:.0f} MB with photos of {settings.max_pixels} pixels; "
        f"there are {memory / MB:.0f} MB of memory and {cores:g} cores"
    )
    if all_of_it > memory:
        yield problem("workers", found, _fitting(settings, memory, cores, each))
    elif settings.workers > max(1, cores):
        fix = f"more workers than cores are no faster; set WEB_CONCURRENCY to {max(1, int(cores))}"
        yield warning("workers", found, fix)
    else:
        yield ok("workers", found)


def _fitting(settings: Settings, memory: int, cores: float, each: int) -> str:
    """What to do, so that the workers fit."""
    count, pixels = fitting(memory, max(1, min(settings.workers, int(cores))), worker=each)
    fix = f"set WEB_CONCURRENCY={count} and AUGU_MAX_PIXELS={min(pixels, settings.max_pixels)}"
    return fix if needed(count, pixels, each) <= memory else f"give it more, and {fix}"


def _quotas(own: Path, root: Path) -> Iterator[float]:
    """Yield how many cores each cgroup may use: `cpu.max` has a quota, or `max`, and its period."""
    for folder in folders("cpu", own, root):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield float(quota) / float(period)
