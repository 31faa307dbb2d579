"""The HTTP API: `create_app` turns a classifier, or all runtimes of a model, into an ASGI application.

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
    # Imported on first use: the command line imports modules of this package and must start without FastAPI.
    if name in __all__:
        from inference.api import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
