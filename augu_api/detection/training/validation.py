"""Validation while a model is trained."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from augu_api.detection.catalogue import Model
from augu_api.detection.nano.targets import Target
from augu_api.detection.torchvision import TorchvisionEngine
from augu_api.detection.training import checkpoint
from augu_api.detection.training.evaluate import Evaluation
from augu_api.detection.training.photo_sets import PhotoSet
from augu_api.detection.training.recipe import Progress, Recipe


class Validator:
    """Validates the average of the weights every so often, keeps the best, and says when to stop.

    When a training run is resumed, the best weights so far are in the model's folder.
    """

    def __init__(self, model: Model, photos: PhotoSet, recipe: Recipe, report: Callable[[Progress], None]) -> None:
        self.model, self.recipe, self.report, self.progress = model, recipe, report, Progress()
        self.evaluation = Evaluation(photos)
        self.photos = self.evaluation.photos()
        self.best = model.folder / "best.pth"
        if self.best.exists() and (model.folder / checkpoint.CHECKPOINT).exists():
            self.progress.validations = torch.load(self.best, weights_only=True)["validations"]

    def __call__(self, step: int, losses: Target, average: nn.Module) -> bool:
        """Whether to go on after this step."""
        self.progress.step, self.progress.losses = step, {name: float(loss.detach()) for name, loss in losses.items()}
        if step % self.recipe.validate == 0 or step == self.recipe.steps:
            self._validate(step, copy.deepcopy(average).cpu().eval())
        self.report(self.progress)
        aps = [ap for _, ap in self.progress.validations]
        return not aps or len(aps) - aps.index(max(aps)) <= self.recipe.patience

    def _validate(self, step: int, module: nn.Module) -> None:
        ap = self.evaluate(self.model, module)["AP"]
        better = all(ap > before for _, before in self.progress.validations)
        self.progress.validations.append((step, ap))
        if better:
            checkpoint.save({"state": module.state_dict(), "validations": self.progress.validations}, self.best)

    def evaluate(self, model: Model, module: nn.Module) -> dict[str, float]:
        """The module's AP and so on, on the validation photos."""
        detector = TorchvisionEngine(model, torch.get_num_threads(), module)
        return self.evaluation.run(detector.detect, self.photos).summary
