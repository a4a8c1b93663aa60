"""The bundled model: torchvision's Faster R-CNN on a nano CSP-PAN backbone, with 2.1 million parameters in total.

Each location of the backbone's three feature maps has 128 features, so that the RPN's head is one linear map. A
proposal keeps the features of the location that made it for the second stage. `targets` and `losses` only train.
"""

from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from augu_api.detection.nano.backbone import NanoBackbone
from augu_api.detection.nano.roi_heads import ScoredRoIHeads
from augu_api.detection.nano.rpn import ScoredRPN
from augu_api.detection.nano.transform import Transform

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def nano_rcnn(num_classes: int = 91, size: int = 412) -> GeneralizedRCNN:
    """A Faster R-CNN whose input is fitted into size x size; label 0 is the background.

    The thresholds of both stages are those that gave the best AP for their time (see weights/README.md).
    """
    backbone = NanoBackbone()
    rpn = ScoredRPN(backbone.out_channels, num_classes - 1)
    roi_heads = ScoredRoIHeads(backbone.out_channels, num_classes)
    return GeneralizedRCNN(backbone, rpn, roi_heads, Transform(size, size, IMAGENET_MEAN, IMAGENET_STD))
