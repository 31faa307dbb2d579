"""Measure Triptych beside other ways to run the same model on a CPU: `make peers`, or `python -m bench`."""


class BenchError(Exception):
    """A part of the bench cannot be measured here; the message says why."""
