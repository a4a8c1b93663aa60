"""The inputs of a training run and its progress; without torch, so that the command line starts fast."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """How to train.

    rate is the learning rate of the second stage (roi_heads), trunk_rate that of all before it. Both rise over `warmup`
    steps and fall along a cosine. `average` is the decay of the moving average of the weights, which is the result.
    Parameters whose names start with one of `frozen` stay as they are. Every `validate` steps the average is
    validated; the training ends early after `patience` validations without a better one.
    """

    steps: int = 400
    batch: int = 16
    optimizer: str = "adamw"
    rate: float = 2e-4
    trunk_rate: float = 5e-5
    warmup: int = 100
    average: float = 0.998
    frozen: tuple[str, ...] = ()
    validate: int = 100
    patience: int = 5
    seed: int = 0
    workers: int = 1


@dataclass
class Progress:
    """How far a training run has come: the step, its losses, and the validations so far (step and AP)."""

    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    validations: list[tuple[int, float]] = field(default_factory=list)
