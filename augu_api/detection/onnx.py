"""The engine that runs a model's ONNX export, without torch."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from augu_api.config import CORES
from augu_api.detection import ModelUnavailable
from augu_api.detection.catalogue import Model, sha256_of
from augu_api.detection.engines import BLANK, Engine, Predictions

REMEDY = "restore the file, or `augu-api weights export {}` makes a new one"
SPIN_KEY = "session.intra_op.spin_duration_us"
SPIN = "200"  # microseconds that a thread waits awake for the graph's next node; between requests it sleeps


class OnnxEngine(Engine):
    """An export in onnxruntime on the CPU, in this process: one session with `threads`, one with all cores."""

    engine = "onnx"

    def __init__(self, model: Model, threads: int) -> None:
        super().__init__(model)
        _verify(model)
        self.session = _session(model, threads)
        self.all_cores = _session(model, CORES) if threads < CORES else self.session
        facts = self.session.get_modelmeta().custom_metadata_map
        if facts.get("sha256") != model.sha256:
            raise ModelUnavailable(f"{model.export} was made from other weights: {REMEDY.format(model.name)}.")

    def predict(self, pixels: NDArray[np.uint8], *, all_cores: bool = False) -> Predictions:
        """The model's output for an RGB photo (H, W, 3)."""
        session = self.all_cores if all_cores else self.session
        return Predictions(*session.run(None, {"pixels": pixels}))

    def warm_up(self) -> None:
        """Detect for the first time, in each session."""
        super().warm_up()
        if self.all_cores is not self.session:
            self.detect(BLANK, all_cores=True)


def _session(model: Model, threads: int) -> onnxruntime.InferenceSession:
    """A session of the export."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(SPIN_KEY, SPIN)
    try:
        return onnxruntime.InferenceSession(model.export, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no base
        raise ModelUnavailable(f"{model.export} cannot be used ({error}): {REMEDY.format(model.name)}.") from error


def _verify(model: Model) -> None:
    """Raise ModelUnavailable unless the export has the noted hash; a damaged one may still load."""
    if model.export.is_file() and model.export_sha256 not in ("", sha256_of(model.export)):
        remedy = REMEDY.format(model.name)
        raise ModelUnavailable(f"{model.export} is damaged, its sha256 is not {model.export_sha256}: {remedy}.")


load = OnnxEngine
