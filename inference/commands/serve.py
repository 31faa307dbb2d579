"""`serve`: the HTTP API of a model."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from inference.api.access import add_access, read_access, read_key
from inference.backends import BACKENDS, TITLES
from inference.commands.options import add_device, add_model_command, load_model
from inference.errors import InputError, MissingDependencyError


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    p = add_model_command(commands, "serve", serve_command, "Serve the HTTP API of a model.", positional=True)
    p.add_argument("--backend", choices=BACKENDS, help="the runtime (default: int8 if the model has it)")
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for access from outside (default: %(default)s)")
    p.add_argument("--port", type=int, default=8000, help="0 for any free port (default: %(default)s)")
    help = "file whose first line is the API key, required except for health (default: $TRIPTYCH_API_KEY, else none)"
    p.add_argument("--api-key-file", type=Path, metavar="FILE", help=help)
    add_access(p)
    add_device(p)


def serve_command(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, then answer the requests in flight; returns the exit code."""
    from inference.artifacts.cache import obtain
    from inference.formats.describe import describe

    try:
        from inference.api import create_app, server
    except ImportError as error:
        if str(error.name).startswith("inference"):
            raise
        message = f"The HTTP API needs the library {error.name!r}. Install it: pip install -r requirements-api.txt"
        raise MissingDependencyError(message) from error
    key, access = read_key(args.api_key_file, os.environ), read_access(args, os.environ)
    if not 0 <= args.port < 65536:
        raise InputError(f"--port {args.port} is not a port number. Pass one from 0 to 65535.")
    for number in (signal.SIGINT, signal.SIGTERM):  # the same for both, also as a background job or in a container
        signal.signal(number, signal.default_int_handler)
    # Before the model is loaded, so that a taken port is reported at once.
    listener = server.bind(args.host, args.port, f"Choose another port: --port {args.port + 1}")
    try:
        backend = args.backend
        if backend is None:
            bundle = describe(args.model, args.base, pairs=args.pairs)
            bundle = obtain(bundle, args.cache, args.progress, args.base).served(bundle)
            backend = "int8" if "int8" in bundle.backends else bundle.backends[-1]
            if reason := bundle.missing.get("int8"):
                print(f"Triptych continues without {TITLES['int8']}: {reason}", file=sys.stderr)
        classifier = load_model(args, backend)
        classifier.classify("warm up")  # the first pass of a runtime is slower than later ones
        app = create_app(classifier, api_key=key, cors_origins=access.cors_origins)
        address, port = listener.getsockname()[:2]
        about = {"model": classifier.bundle.name, "backend": backend, "url": f"{server.url(args.host, port)}/api"}
        if key is None and not ipaddress.ip_address(address).is_loopback:
            print(
                f"No API key is set: anyone who can reach {args.host} can use this server. "
                "Set one with --api-key-file FILE.",
                file=sys.stderr,
            )

        def ready() -> None:
            line = f"Triptych serves {about['model']} ({backend}) at {about['url']}"
            print(json.dumps(about) if args.json else line, flush=True)

        server.serve(app, listener, ready, app.state.service.stop, access)
    except KeyboardInterrupt:
        if not args.json:
            print("Triptych stops.", flush=True)
    finally:
        listener.close()
    return 0
