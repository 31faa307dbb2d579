"""The ONNX runtime: exporting, joining, quantising, converting, reading and running graphs."""
