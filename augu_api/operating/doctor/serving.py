"""Checks of the model, engine and workers."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from augu_api import detection
from augu_api.config import CORES, ROOT, Settings
from augu_api.detection import Detector, ModelUnavailable
from augu_api.detection.catalogue import PUBLISHED, Model, find
from augu_api.detection.engines import load, optional
from augu_api.operating.doctor.findings import Finding, ok, problem, warning

MB = 10**6
PHOTO = ROOT / "examples" / "street.png"
CGROUP = Path("/sys/fs/cgroup")


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
    if not PHOTO.is_file():
        return ok("engine", f"{serves}, not tried because {PHOTO} is missing")
    pixels = np.asarray(Image.open(PHOTO).convert("RGB"))
    found = detection.select(detector.detect(pixels), min_score=60, limit=100, names=None)
    if found:
        return ok("engine", f"{serves} and finds in {PHOTO.name}: {', '.join(one.name for one in found)}")
    if detector.facts["model"] in ("bundled", *PUBLISHED):
        return problem("engine", f"{serves} and finds nothing in {PHOTO}", "restore the weights and the export")
    return ok("engine", f"{serves} and finds nothing in {PHOTO.name}, which may be right for this model")


def workers(settings: Settings, cgroup: Path = CGROUP) -> Iterator[Finding]:
    """The workers fit the cores and the memory of this machine, or of the container (cgroup v2 of Linux).

    The memory of a worker is estimated by the peak of this process, which has loaded the model.
    """
    cores = min(CORES, _quota(cgroup / "cpu.max"))
    memory = min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _quota(cgroup / "memory.max")) / MB
    each = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
    found = f"{settings.workers} workers of about {each:.0f} MB each, {cores:g} cores and {memory:.0f} MB of memory"
    if settings.workers * each > memory:
        yield problem("workers", found, f"set WEB_CONCURRENCY to {max(1, int(memory / each))} or less")
    elif settings.workers > max(1, cores):
        fix = f"more workers than cores are no faster; set WEB_CONCURRENCY to {max(1, int(cores))}"
        yield warning("workers", found, fix)
    else:
        yield ok("workers", found)


def _quota(file: Path) -> float:
    """The limit in a cgroup's file: a number, a quota and its period, or `max` (no limit)."""
    try:
        limit, *period = file.read_text().split()
        return float(limit) / float(period[0]) if period else float(limit)
    except (OSError, ValueError):
        return float("inf")
