"""What moves the weights: the optimizer, its learning rates over time, and the moving average."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from augu_api.detection.training.recipe import Recipe

OPTIMIZERS: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer of the parameters that are not frozen, the second stage with a rate of its own."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    heads = [parameter for name, parameter in trained if name.startswith("roi_heads")]
    trunk = [parameter for name, parameter in trained if not name.startswith("roi_heads")]
    groups = [{"params": heads, "lr": recipe.rate}, {"params": trunk, "lr": recipe.trunk_rate}]
    optimizer: torch.optim.Optimizer = OPTIMIZERS[recipe.optimizer](
        [group for group in groups if group["params"]], weight_decay=1e-4
    )
    return optimizer


def rate_factor(step: int, recipe: Recipe) -> float:
    """The learning rate at a step, relative to the recipe's: a linear warm-up and a cosine."""
    return min(1.0, (step + 1) / recipe.warmup) * (1 + math.cos(math.pi * min(1.0, step / recipe.steps))) / 2


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that follows closely at first."""

    @torch.no_grad()
    def average(averages: Any, values: Any, number: Any) -> None:
        if averages[0].is_floating_point():
            weight = 1 - min(decay, (1 + int(number)) / (10 + int(number)))
            torch._foreach_lerp_(averages, values, weight)
        else:  # a batch norm's counter
            torch._foreach_copy_(averages, values)

    return average
