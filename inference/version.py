"""The version of Triptych."""

__version__ = "0.3.0"
