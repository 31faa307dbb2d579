"""The command of the API: serve."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.backends import DTYPES, EVERY
from inference.commands import load_asked
from inference.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from inference.api.front import Access


_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|\*")


def add(with_model: Callable[..., Any]) -> None:
    """Add it to the parser. `with_model` makes a command that has --model, --base, --cache and --json."""
    p = with_model("serve", serve, "The HTTP API of a model, until it is told to stop.", positional=True)
    p.add_argument("--backend", choices=EVERY, help="the runtime (default: int8 where the model has it)")
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


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say who may ask, to the command of any server."""
    parser.add_argument(
        "--allowed-hosts",
        metavar="HOSTS",
        help="host names to answer for, separated by commas; *.example.org for subdomains (default: "
        "$TRIPTYCH_ALLOWED_HOSTS, else any)",
    )
    parser.add_argument(
        "--forwarded-allow-ips",
        metavar="ADDRESSES",
        help="addresses or networks of proxies whose X-Forwarded-* headers are trusted, separated by commas; * for all "
        "(default: $FORWARDED_ALLOW_IPS, else none)",
    )


def read_access(args: argparse.Namespace, environment: Mapping[str, str], **fields: Any) -> Access:
    """Read who may ask from the arguments of `add_access`, else from the environment.

    Args:
        fields: further ones of `Access`.

    Raises:
        InputError: one is not a host name or an address.
    """
    from inference.api.front import Access

    def items(given: str | None, variable: str) -> tuple[str, ...]:
        listed = environment.get(variable, "") if given is None else given
        return tuple(item.strip() for item in listed.split(",") if item.strip())

    hosts = items(args.allowed_hosts, "TRIPTYCH_ALLOWED_HOSTS")
    proxies = items(args.forwarded_allow_ips, "FORWARDED_ALLOW_IPS")
    if args.allowed_hosts == "" or not all(map(_HOST_PATTERN.fullmatch, hosts)):
        raise InputError("--allowed-hosts takes host names without scheme, port or path, such as demo.example.org.")
    for proxy in proxies:
        try:
            proxy == "*" or ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            raise InputError("--forwarded-allow-ips takes addresses or networks, such as 10.0.0.0/8, or *.") from None
    return Access(allowed_hosts=hosts, trusted_proxies=proxies, **fields)


def serve(args: argparse.Namespace) -> int:
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
        classifier = load_asked(args, backend)
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


def read_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The API key in a file, else in TRIPTYCH_API_KEY; None where there is neither.

    Raises:
        InputError: the file cannot be read or begins with an empty line, or the variable is set but empty.
    """
    if file is None:
        said = environment.get("TRIPTYCH_API_KEY")
        if said == "":  # a secret that was not filled in must not open the server to all
            raise InputError("TRIPTYCH_API_KEY is set but empty. Write the key there, or unset it to have none.")
        return said
    try:
        key: str = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file {file} cannot be read: {type(error).__name__}.") from None
    if not key:
        raise InputError(f"--api-key-file {file} begins with an empty line. Write the key there.")
    return key


def _best(backends: tuple[str, ...]) -> str:
    return "int8" if "int8" in backends else backends[0]
