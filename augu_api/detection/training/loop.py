"""The training loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from augu_api.detection.nano.targets import Target
from augu_api.detection.training import checkpoint
from augu_api.detection.training.dataset import PhotoDataset
from augu_api.detection.training.optimizer import averaging, make_optimizer, rate_factor
from augu_api.detection.training.recipe import Recipe
from augu_api.detection.training.sampler import ResumableSampler

MAX_NORM = 5.0  # of the gradient
SAVE_EVERY = 100  # steps
AfterStep = Callable[[int, Target, nn.Module], bool]


class Training:
    """A module in training, the moving average of its weights, and what changes them."""

    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.module = module.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's types lack memory_format
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not name.startswith(recipe.frozen))
        self.average = AveragedModel(module, multi_avg_fn=averaging(recipe.average), use_buffers=True)
        self.optimizer = make_optimizer(module, recipe)
        self.scheduler = LambdaLR(self.optimizer, lambda step: rate_factor(step, recipe))
        self.scaler = torch.GradScaler(self.device.type, enabled=self.device.type == "cuda")

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of."""
        return {name: getattr(self, name) for name in ("module", "average", "optimizer", "scheduler", "scaler")}

    def step(self, images: list[Tensor], targets: list[Target]) -> Target:
        """Learn from a batch, and return the losses."""
        images = [image.to(self.device) for image in images]
        targets = [{key: value.to(self.device) for key, value in target.items()} for target in targets]
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            losses: Target = self.module(images, targets)
        self.optimizer.zero_grad()
        self.scaler.scale(torch.stack([*losses.values()]).sum()).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], MAX_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.average.update_parameters(self.module)
        return losses


def train(module: nn.Module, photos: PhotoDataset, recipe: Recipe, path: Path, after_step: AfterStep) -> nn.Module:
    """Train `module` in place, going on from the checkpoint at `path` if there is one; return its average.

    After each step `after_step(step, losses, average)` is called; the training ends when it returns False.
    """
    training = Training(module, recipe)
    start = checkpoint.resume(path, training.parts, training.device)
    sampler = ResumableSampler(len(photos), recipe, start)
    loader = DataLoader(photos, batch_sampler=sampler, num_workers=recipe.workers, collate_fn=_collate)
    for step, (images, targets) in enumerate(loader, start + 1):
        losses = training.step(images, targets)
        proceed = after_step(step, losses, training.average.module)
        if step % SAVE_EVERY == 0 or step == recipe.steps or not proceed:
            states = {name: part.state_dict() for name, part in training.parts.items()}
            checkpoint.save({"step": step} | states, path)
        if not proceed:
            break
    return training.average.module


def _collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
