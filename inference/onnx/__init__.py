"""ONNX files: made from a network, merged, quantised, halved, written, and answered from."""
