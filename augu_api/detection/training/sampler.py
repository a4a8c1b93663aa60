"""The order in which training takes its photos."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from augu_api.detection.training.recipe import Recipe


class ResumableSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (index, seed) from step `start` on, every photo once per epoch; a recipe's seed fixes them."""

    def __init__(self, photos: int, recipe: Recipe, start: int) -> None:
        self.photos, self.recipe, self.start = photos, recipe, start

    def __len__(self) -> int:
        return self.recipe.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seed, batch, epoch = self.recipe.seed * 10**7, [], None  # of which torch takes the lower 32 bits
        for number in range(self.start * self.recipe.batch, self.recipe.steps * self.recipe.batch):
            if number // self.photos != epoch:
                epoch = number // self.photos
                order = torch.randperm(self.photos, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
            batch.append((order[number % self.photos], seed + number))
            if len(batch) == self.recipe.batch:
                yield batch
                batch = []
