"""The results of a benchmark, and how they are shown."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from augu_api.config import CORES

CLIENTS = 1, 2, 4, 8
MEGAPIXELS = 0.3, 1.0, 4.0, 12.0
ALL_CORES = f"our export, {CORES} processes"


@dataclass
class Turn:
    """One turn: the median and the 95th percentile of the latency in milliseconds, and requests per second."""

    p50: float
    p95: float
    rate: float


@dataclass
class Result:
    """The results of one contestant.

    `turns` is by the number of clients. `beside` has the turns that the models in process took between those turns, by
    their names. `pss` is in MB, `start` in seconds, and `by_size` in milliseconds, by the photo's megapixels.
    """

    name: str
    turns: dict[int, list[Turn]] = field(default_factory=dict)
    beside: dict[str, list[Turn]] = field(default_factory=dict)
    failed: int = 0
    pss: float | None = None
    start: float | None = None
    by_size: dict[str, float] = field(default_factory=dict)

    def median(self, figure: str, clients: int) -> float:
        """The median of a figure (`p50`, `p95` or `rate`) over the turns with this number of clients."""
        return median(figure, self.turns[clients])

    def compared(self, figure: str, clients: int, name: str) -> float:
        """The median of a figure divided by that of a model in process at the same time."""
        return self.median(figure, clients) / median(figure, self.beside[name])

    @property
    def best(self) -> int:
        """The number of clients with the highest rate."""
        return max(self.turns, key=lambda clients: self.median("rate", clients))


def turn_of(milliseconds: list[float], rate: float) -> Turn:
    """The turn with these latencies and this rate."""
    return Turn(statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[-1], rate)


def median(figure: str, turns: list[Turn]) -> float:
    """The median of a figure over some turns."""
    return float(statistics.median(getattr(turn, figure) for turn in turns))


def in_threads(name: str, threads: int) -> str:
    """The name of a model in process with this number of threads."""
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def table(results: list[Result]) -> str:
    """The results as a table in Markdown."""
    return tabulate([_row(result) for result in results], headers="keys", tablefmt="github", disable_numparse=True)


def _row(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {"": result.name}
    for clients in CLIENTS:
        shown = clients in result.turns and (clients == 1 or result.start)
        latencies = f"{result.median('p50', clients):.0f} / {result.median('p95', clients):.0f}" if shown else ""
        row[f"p50 / p95 ms, {clients} clients"] = latencies
    row["req/s, best"] = f"{result.median('rate', result.best):.1f}"
    row["PSS MB"] = f"{result.pss:.0f}" if result.pss else ""
    row["start s"] = f"{result.start:.1f}" if result.start else ""
    row |= {f"{size} MP ms": f"{result.by_size[str(size)]:.0f}" if result.by_size else "" for size in MEGAPIXELS}
    row["failed"] = result.failed or ""
    return row


def ratios(results: list[Result]) -> list[str]:
    """The figures that the notes promise, as ratios where that makes them independent of the machine."""
    by_name, most = {result.name: result for result in results}, CLIENTS[-1]
    default, single = by_name[f"Augu API, onnx, {CORES} x 1"], by_name[f"Augu API, onnx, 1 x {CORES}"]
    lines = []
    for served, threads in ((default, 1), (default, CORES), (single, CORES)):
        for name in (in_threads(other, threads) for other in ("eager module", "our export")):
            ratio = served.compared("p50", 1, name)
            lines.append(f"p50 of one client, {served.name} / {name}, in process: {ratio:.2f}")
    rate = default.compared("rate", most, ALL_CORES)
    lines.append(f"req/s of {most} clients / {ALL_CORES}: {rate:.2f}")
    for peer, engine, best in _peers(results):
        lines.append(f"req/s of {most} clients / the best of {peer} with {engine}: {rate / best:.2f}")
    lines.append(f"p95 / p50 of {most} clients: {default.median('p95', most) / default.median('p50', most):.2f}")
    lines.append(f"PSS a worker: {(default.pss or 0) / CORES:.0f} MB; start to first answer: {default.start:.1f} s")
    return lines


def _peers(results: list[Result]) -> list[tuple[str, str, float]]:
    """Each peer with each engine, and its best rate compared with the bare model on all cores."""
    peers = [(peer, engine) for engine in ("torchvision", "onnx") for peer in ("LitServe", "BentoML")]
    return [
        (
            peer,
            engine,
            max(r.compared("rate", r.best, ALL_CORES) for r in results if r.name.startswith(f"{peer}, {engine}")),
        )
        for peer, engine in peers
    ]


def draw(results: list[Result], path: Path) -> None:
    """A bar per server, the fastest on top: its rate divided by that of the bare model at the same time."""
    parts = {r.name: r.compared("rate", r.best, ALL_CORES) for r in results if r.start}
    names = sorted(parts, key=parts.__getitem__)
    figure = Figure(figsize=(8, 0.4 * len(names) + 1))
    axes = figure.subplots()
    colours = ["#1565c0" if name.startswith("Augu") else "#9e9e9e" for name in names]
    bars = axes.barh(names, [parts[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlabel(f"requests per second / {ALL_CORES}, best of 1 to 8 clients, 640 x 480")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
