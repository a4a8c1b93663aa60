"""Training photos with boxes, augmented."""

import random
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from augu_api.detection.nano.targets import Target
from augu_api.detection.training.photo_sets import Box, Photo
from augu_api.detection.training.photo_sets.files import open_upright

GREY = (124, 116, 104)  # the mean of ImageNet: what a photo is surrounded with
IGNORED = -1  # the label of a box to ignore


class PhotoDataset(Dataset[tuple[Tensor, Target]]):
    """Photos with boxes: (index, seed) -> an RGB photo (3, H, W) from 0 to 1, and its target (see nano.targets)."""

    def __init__(self, photos: list[Photo], label_of: dict[int, int]) -> None:
        self.photos, self.label_of = photos, label_of
        self.transform = augmentation()

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, at: tuple[int, int]) -> tuple[Tensor, Target]:
        index, seed = at
        torch.manual_seed(seed)
        random.seed(seed)
        photo = open_upright(self.photos[index].file)
        boxes = self.photos[index].boxes
        image, target = self.transform(photo, _target(boxes, self.label_of, (photo.height, photo.width)))
        counts, boxes = target["labels"] != IGNORED, target["boxes"].as_subclass(Tensor)
        kept = {"boxes": boxes[counts], "labels": target["labels"][counts], "scores": target["scores"][counts]}
        return image, kept | {"ignore": boxes[~counts]}


def _target(boxes: list[Box], label_of: dict[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """All boxes of a photo of this size (H, W), those to ignore as well."""
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (box.xywh for box in boxes)], dtype=torch.float32)
    labels = [IGNORED if box.crowd else label_of[box.category] for box in boxes]
    return {
        "boxes": BoundingBoxes(corners.reshape(-1, 4), format=BoundingBoxFormat.XYXY, canvas_size=size),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor([box.score for box in boxes], dtype=torch.float32),
    }


def augmentation() -> v2.Transform:
    """Change the colours, zoom out, crop so that boxes are kept, and flip."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomPhotometricDistort(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.7, 1.3), p=0.3),
            v2.RandomZoomOut(fill=GREY, side_range=(1.0, 1.7), p=0.2),
            v2.RandomApply([v2.RandomIoUCrop(min_scale=0.5, sampler_options=[0.5, 0.7, 0.9, 1.0])], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=3, labels_getter=lambda all: (all[1]["labels"], all[1]["scores"])),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def read_labels(known: list[str], categories: dict[int, str]) -> tuple[list[str], dict[int, int]]:
    """The labels' names, and the label of each category by its id; `known` names are kept if they are enough."""
    names = known if set(categories.values()) <= set(known) else ["background", *categories.values()]
    return names, {id: names.index(name) for id, name in categories.items()}
