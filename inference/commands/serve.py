"""The command of the API: serve."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.api.access import add_access, read_access, read_key
from inference.backends import BACKENDS, DTYPES
from inference.commands.options import add_model_command, load_model
from inference.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    pass


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    p = add_model_command(
        commands, "serve", serve_command, "The HTTP API of a model, until it is told to stop.", positional=True
    )
    p.add_argument("--backend", choices=BACKENDS, help="the runtime (default: int8 where the model has it)")
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from outside (default: %(default)s)")
    p.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: %(default)s)")
    p.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="its first line is wanted of every request but those for health (default: $TRIPTYCH_API_KEY, else none)",
    )
    add_access(p)
    p.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … or auto (default: %(default)s)")
    p.add_argument("--dtype", choices=DTYPES, help="(default: float32 on a CPU, half precision on a GPU)")


def serve_command(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; what has been asked by then is answered. Returns the exit code."""
    from inference.formats.describe import describe

    try:
        from inference.api import create_app, server
    except ImportError as error:
        if str(error.name).startswith("inference"):
            raise
        raise MissingDependencyError(
            f"The HTTP API needs the library {error.name!r}. Install it: pip install -r requirements-api.txt"
        ) from error
    key = read_key(args.api_key_file, os.environ)
    if not 0 <= args.port < 65536:
        raise InputError(f"--port {args.port} is no port number. Give one from 0 to 65535.")
    for number in (signal.SIGINT, signal.SIGTERM):  # both end it alike, also as a background job or in a container
        signal.signal(number, signal.default_int_handler)
    held = server.bind(args.host, args.port, f"Give another: --port {args.port + 1}")  # now, not when all is loaded
    try:
        backend = args.backend or _best(describe(args.model, args.base).backends)
        classifier = load_model(args, backend)
        classifier.classify("warm up")  # a runtime's first pass is slower than any other
        app = create_app(classifier, api_key=key)
        address = f"{server.url(args.host, held.getsockname()[1])}/api"

        if key is None and not ipaddress.ip_address(held.getsockname()[0]).is_loopback:
            print(
                f"No key is set: whoever reaches {args.host} can ask this server. --api-key-file FILE wants one.",
                file=sys.stderr,
            )

        def ready() -> None:
            about = {"model": classifier.bundle.name, "backend": backend, "url": address}
            told = f"Triptych serves {about['model']} ({backend}) at {address}"
            print(json.dumps(about) if args.json else told, flush=True)

        server.serve(app, held, ready, app.state.service.stop, read_access(args, os.environ))
    except KeyboardInterrupt:
        if not args.json:
            print("Triptych stops.", flush=True)
    finally:
        held.close()
    return 0


def _best(backends: tuple[str, ...]) -> str:
    return "int8" if "int8" in backends else backends[0]
