"""Training, evaluation and ONNX export; not needed to serve."""
