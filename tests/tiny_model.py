"""A model that finds nothing in any photo, for tests of servers that are about other things: it loads at once."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from augu_api.detection.catalogue import sha256_of

SHA256 = "0" * 64  # of the weights, which only the other engine needs


def write(folder: Path) -> None:
    """Write the model's files into the folder: AUGU_MODEL may name it, with AUGU_ENGINE=onnx."""
    outputs = {
        "boxes": (TensorProto.FLOAT, [0, 4]),
        "labels": (TensorProto.INT64, [0]),
        "scores": (TensorProto.FLOAT, [0]),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, []))
        for name, (kind, shape) in outputs.items()
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["height", "width", 3])
    replies = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()]
    graph = helper.make_graph(nodes, "tiny", [pixels], replies)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"sha256": SHA256})
    onnx.save(model, folder / "model.onnx")
    facts = {
        "architecture": "nano_rcnn",
        "file": "model.pth",
        "sha256": SHA256,
        "export_sha256": sha256_of(folder / "model.onnx"),
        "names": ["background", "person"],
        "min_size": 8,
        "max_size": 8,
        "megabytes": 0,
        "ap": 0,
        "speed": "fastest",
    }
    (folder / "model.json").write_text(json.dumps(facts))
