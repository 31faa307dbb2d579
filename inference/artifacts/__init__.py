"""ONNX and INT8 files of a model: built, checked against PyTorch, cached, exported, merged and imported."""
