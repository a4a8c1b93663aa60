"""What makes models: training, evaluation and the ONNX export; the service does without it."""
