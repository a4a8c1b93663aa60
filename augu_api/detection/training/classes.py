"""A trained model with other classes."""

from typing import Any

import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from augu_api.detection.catalogue import Model
from augu_api.detection.torchvision import build

CONFIDENT = 8.0  # a logit


def with_classes(model: Model, names: list[str]) -> nn.Module:
    """The model's module, with new class layers unless the labels' names are its own."""
    module: Any = build(model)
    if names == model.names:
        return module
    if model.architecture == "nano_rcnn":
        replace_classes(module, len(names) - 1)
    else:
        predictor = module.roi_heads.box_predictor
        module.roi_heads.box_predictor = FastRCNNPredictor(predictor.cls_score.in_features, len(names))
    return module


def replace_classes(module: GeneralizedRCNN, classes: int) -> None:
    """Give the bundled model new class layers; its objectness and how it moves a box of class 0 stay."""
    head, old = module.rpn.head, module.roi_heads.box_predictor
    head.names = nn.Linear(head.names.in_features, classes)
    nn.init.zeros_(head.names.weight)
    nn.init.constant_(head.names.bias, CONFIDENT)  # all classes are likely: objectness alone chooses the proposals
    new = module.roi_heads.box_predictor = FastRCNNPredictor(old.cls_score.in_features, 1 + classes)
    with torch.no_grad():
        new.cls_score.weight[0], new.cls_score.bias[0] = old.cls_score.weight[0], old.cls_score.bias[0]
        for part in ("weight", "bias"):  # each new class moves boxes as label 0 does
            moves = getattr(old.bbox_pred, part)[:4]
            getattr(new.bbox_pred, part).copy_(torch.cat([moves] * (1 + classes)))
