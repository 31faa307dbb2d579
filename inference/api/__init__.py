"""The HTTP API: `create_app` makes of a classifier, or of the three of a model, an application for any ASGI server.

>>> from inference import load
>>> from inference.api import create_app
>>> app = create_app(load("assets/models/demo", backend="int8"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.api.app import create_app
    from inference.api.service import ApiLimits

__all__ = ["ApiLimits", "create_app"]


def __getattr__(name: str) -> Any:
    # Not imported above: the command line reads this package's `commands`, and must start without FastAPI.
    if name in __all__:
        from inference.api import app, service

        return getattr(app if name == "create_app" else service, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
