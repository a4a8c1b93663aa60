"""Load a model into the engine that runs it."""

from importlib import import_module

from augu_api.config import Settings
from augu_api.detection import Detector, ModelUnavailable
from augu_api.detection.catalogue import find


def load(settings: Settings) -> Detector:
    """The detector of `settings.model`, warmed up. Raises ModelUnavailable.

    Torch hangs if it is used before a fork and after it, so each worker calls this itself.
    """
    model = find(settings.model, settings)
    try:  # imported here, since most commands do without torch
        engine = import_module("augu_api.detection.torchvision")
    except (ImportError, RuntimeError) as error:  # RuntimeError: the two do not fit each other
        raise ModelUnavailable(
            f"torch and torchvision cannot be used ({error}). They must be a pair made for each other: "
            "pip install -r requirements.txt"
        ) from error
    detector: Detector = engine.TorchvisionDetector(model, settings.engine_threads)
    return detector
