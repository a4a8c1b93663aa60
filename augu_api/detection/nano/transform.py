"""How photos and their targets are fitted to the model's input."""

from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from augu_api.detection.nano.targets import Target


class Transform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform, which also resizes the target's "ignore" boxes."""

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Resize an image (3, H, W) and its boxes."""
        resized, target = super().resize(image, target)
        if target and "ignore" in target:
            target["ignore"] = resize_boxes(target["ignore"], image.shape[-2:], resized.shape[-2:])
        return resized, target
