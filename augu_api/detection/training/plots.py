"""Pictures of an evaluation."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from augu_api.detection.drawing import annotate
from augu_api.detection.training.evaluate import DEFAULT_SCORE, Evaluation
from augu_api.detection.training.photo_sets.files import open_upright


def draw_curves(evaluation: Evaluation, path: Path) -> None:
    """Precision over recall, and how often a score is right."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_precision(evaluation, left)
    bins = evaluation.calibration()
    right.plot([0, 100], [0, 100], color="lightgrey")
    right.scatter([100 * b.score for b in bins], [100 * b.right for b in bins], [8 + b.boxes / 5 for b in bins])
    right.set(xlabel="score", ylabel="boxes that are right, %", xlim=(0, 100), ylim=(0, 100))
    figure.savefig(path, dpi=80)


def draw_worst(evaluation: Evaluation, path: Path) -> None:
    """The nine photos with the most mistakes: what was detected in colours, and dashed what was missed."""
    worst = sorted(evaluation.detections, key=evaluation.mistakes, reverse=True)
    figure = Figure(figsize=(12, 12), layout="constrained")
    for axes, id in zip(figure.subplots(3, 3).flat, worst, strict=False):
        found = [d for d in evaluation.detections[id] if d.score >= DEFAULT_SCORE]
        axes.imshow(annotate(open_upright(evaluation.files[id]), found))
        for x, y, width, height in (evaluation.truth.anns[one]["bbox"] for one in evaluation.missed(id)):
            axes.add_patch(Rectangle((x, y), width, height, fill=False, color="white", linestyle="--"))
        axes.set_title(f"{evaluation.files[id].name}: {evaluation.mistakes(id)} mistakes", fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.savefig(path, dpi=60)


def _draw_precision(evaluation: Evaluation, axes: Axes) -> None:
    precision, recalls = evaluation.coco.eval["precision"][:, :, :, 0, -1], evaluation.coco.params.recThrs
    for at, label in ((0, "IoU 0.5"), (5, "IoU 0.75")):
        present = precision[at][:, (precision[at] >= 0).all(0)]
        if present.size:
            axes.plot(recalls, present.mean(1), label=label)
    axes.set(xlabel="recall", ylabel="precision, mean over the categories", xlim=(0, 1), ylim=(0, 1))
    if axes.lines:
        axes.legend()
