"""Measure this service beside others, on the same photo and with the same weights: `make bench`.

The speed of a machine varies, so each server takes ROUNDS rounds of turns of SECONDS, and the model in process takes
turns between them: servers are compared by the ratio to the latter. Needs h2load (nghttp2-client). Writes results.md,
results.json and results.svg beside this file.
"""

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from in_process import Bare
from results import ALL_CORES, Result, draw, in_threads, ratios, table
from served import own_servers, peers

from augu_api.config import CORES

HERE = Path(__file__).parent


def main() -> None:
    """Measure everything, and write the results."""
    if not shutil.which("h2load"):
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    kinds = {"eager module": "eager", "plain torchvision export": "plain", "our export": "onnx"}
    bare = [Bare(in_threads(name, n), kind, n) for n in (1, CORES) for name, kind in kinds.items()]
    bare.append(Bare(ALL_CORES, "onnx", 1, CORES))
    for model in _bar(bare, "In process"):
        model.measure_sizes()
    with tempfile.TemporaryDirectory() as folder:
        served = [
            server.measured(bare if server.name.startswith("Augu API, onnx") else bare[-1:])
            for server in _bar([*own_servers(Path(folder)), *peers(Path(folder))], "Servers")
        ]
    write([model.result for model in bare] + served)


def write(results: list[Result]) -> None:
    """Write the results beside this file, and print them."""
    machine = f"{CORES} cores, {platform.machine()}, {cpu()}, {datetime.now(UTC).date()}"
    promises = "".join(f"- {line}\n" for line in ratios(results))
    text = f"Measured by `make bench` on {machine}.\n\n{table(results)}\n\n{promises}"
    (HERE / "results.md").write_text(text)
    raw = {"machine": machine, "results": [asdict(result) for result in results]}
    (HERE / "results.json").write_text(json.dumps(raw, indent=1))
    draw(results, HERE / "results.svg")
    print(text)


def _bar(steps: list[Any], label: str) -> Iterator[Any]:
    with click.progressbar(steps, label=label, file=sys.stderr) as bar:
        yield from bar


def cpu() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
