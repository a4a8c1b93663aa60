"""Photos with boxes for training and evaluation: read from COCO's, YOLO's or Pascal VOC's format, checked and mended.

Without torch, so that faults are reported before it is imported.
"""

from augu_api.detection.training.photo_sets.content import Box, Photo, PhotoSet
from augu_api.detection.training.photo_sets.read import read
from augu_api.detection.training.photo_sets.report import FaultyPhotoSet, Report
from augu_api.detection.training.photo_sets.split import Parts, split

__all__ = ["Box", "FaultyPhotoSet", "Parts", "Photo", "PhotoSet", "Report", "read", "split"]
