"""Training photos with boxes, read from COCO's format and augmented."""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from augu_api.detection import ModelUnavailable
from augu_api.detection.nano.targets import Target
from augu_api.detection.training.evaluate import check_present
from augu_api.detection.training.recipe import Data

GREY = (124, 116, 104)  # the mean of ImageNet: what a photo is surrounded with
IGNORED = -1  # the label of a box to ignore


class Box(NamedTuple):
    """A box (x, y, width, height), its label, and how likely it is right."""

    xywh: list[float]
    label: int
    score: float = 1.0


class PhotoDataset(Dataset[tuple[Tensor, Target]]):
    """Photos with boxes: (index, seed) -> an RGB photo (3, H, W) from 0 to 1, and its target (see nano.targets)."""

    def __init__(self, files: list[Path], boxes: list[list[Box]]) -> None:
        self.files, self.boxes = files, boxes
        self.transform = augmentation()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: tuple[int, int]) -> tuple[Tensor, Target]:
        index, seed = at
        torch.manual_seed(seed)
        random.seed(seed)
        with Image.open(self.files[index]) as file:
            photo = file.convert("RGB")
        image, target = self.transform(photo, _target(self.boxes[index], (photo.height, photo.width)))
        counts, boxes = target["labels"] != IGNORED, target["boxes"].as_subclass(Tensor)
        kept = {"boxes": boxes[counts], "labels": target["labels"][counts], "scores": target["scores"][counts]}
        return image, kept | {"ignore": boxes[~counts]}


def _target(boxes: list[Box], size: tuple[int, int]) -> dict[str, Any]:
    """All boxes of a photo of this size (H, W), those to ignore as well."""
    corners = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in boxes], dtype=torch.float32)
    return {
        "boxes": BoundingBoxes(corners.reshape(-1, 4), format=BoundingBoxFormat.XYXY, canvas_size=size),
        "labels": torch.tensor([box.label for box in boxes], dtype=torch.int64),
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


def read_labels(known: list[str], annotations: Path) -> tuple[list[str], dict[int, int]]:
    """The labels' names, and the label of each category by its id; `known` names are kept if they are enough.

    Raises ModelUnavailable.
    """
    try:
        categories = {one["id"]: one["name"] for one in json.loads(annotations.read_text())["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{annotations} is not a file in COCO's format: {error!r}.") from error
    names = known if set(categories.values()) <= set(known) else ["background", *categories.values()]
    return names, {id: names.index(name) for id, name in categories.items()}


def read_photos(data: Data, label_of: dict[int, int]) -> dict[int, tuple[Path, list[Box]]]:
    """Each photo's file and boxes, by its id. Raises ModelUnavailable."""
    path = data.annotations
    try:
        content = json.loads(path.read_text())
        photos: dict[int, tuple[Path, list[Box]]] = {
            image["id"]: (data.images / image["file_name"], []) for image in content["images"]
        }
        for one in content["annotations"]:
            label = IGNORED if one.get("iscrowd") else label_of[one["category_id"]]
            photos[one["image_id"]][1].append(Box(one["bbox"], label, one.get("score", 1.0)))
        if data.ignore:
            path = data.ignore
            for one in json.loads(path.read_text())["annotations"]:
                photos[one["image_id"]][1].append(Box(one["bbox"], IGNORED))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{path} is not a file in COCO's format: {error!r}.") from error
    check_present(file for file, _ in photos.values())
    return photos
