"""ONNX files: made from a network, merged, quantised, halved, written, and answered from."""

import os

# ONNX Runtime reports to Microsoft from 1.29 on, and leaves an identifier of the device in the user's cache. Its own
# `disable_telemetry_events()` comes too late, after the first event: only this variable, read while the library loads,
# keeps it silent. Everything here that imports onnxruntime is in this package, so this line runs before. A value that
# the user has set stays, and where onnxruntime was imported before `inference`, nothing can be done.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
