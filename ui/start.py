"""Start and stop a server of the page.

Environment variables:
    TRIPTYCH_MODEL            model folder or Hub id; default assets/models/demo
    TRIPTYCH_BASE             folder of the base model, if it is not where the model says
    TRIPTYCH_PAIRS            1 or 0, as --pairs and --no-pairs; default what the folder says
    TRIPTYCH_RECEIPTS         folder of further measurements; the page shows what those of this model decide
    TRIPTYCH_BACKEND          runtime selected at the start: pytorch, onnx, int8 or openvino; default int8
    TRIPTYCH_RUNTIMES         optional runtimes to offer too: openvino (requirements-openvino.txt)
    PORT                      default $GRADIO_SERVER_PORT, which a Gradio Space may set, else 7860
    GRADIO_SERVER_NAME        address to listen on; default 127.0.0.1, 0.0.0.0 for all
    TRIPTYCH_ALLOWED_HOSTS, FORWARDED_ALLOW_IPS, TRIPTYCH_ROOT_PATH, TRIPTYCH_CORS_ORIGINS, TRIPTYCH_FRAME_ANCESTORS
                              as the options of the same name
    XDG_CACHE_HOME            built models go to triptych in it; default ~/.cache; --cache names the folder itself
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inference import InferenceError, InputError
from inference.api import server
from inference.api.access import add_access, read_access
from inference.api.front import Access
from inference.assets import DEMO_MODEL
from inference.backends import RUNTIMES, TITLES, check_backend, read_optional
from inference.formats.pairs import read_pairs
from inference.jobs import ProgressLine, print_any_text, wait_for_jobs
from inference.loading import Models
from ui.files import TemporaryFiles, temporary_files
from ui.recorded import RECEIPTS
from ui.site import CONTENT
from ui.zero_gpu import import_spaces

HUB = "'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"
"""Who may embed the pages of a Space in a frame: the Hub does."""


@dataclass(frozen=True)
class ServerSettings:
    """What to serve, and where."""

    model: Path
    base: Path | None
    pairs: bool | None
    cache: Path | None
    backend: str
    host: str
    port: int
    access: Access
    zero_gpu: bool = False
    """This is a Space on ZeroGPU."""
    receipts: tuple[Path, ...] = (RECEIPTS,)
    """Folders of measurements."""
    runtimes: tuple[str, ...] = ()
    """Optional ones to offer too."""

    @classmethod
    def read(cls, environment: Mapping[str, str], arguments: Sequence[str] = ()) -> ServerSettings:
        """Read the settings from environment variables (an empty one counts as unset) and arguments.

        Raises:
            InputError: an unknown backend, an invalid port or an invalid option.
        """
        args = _parser().parse_args(arguments)
        variable = "PORT" if environment.get("PORT") else "GRADIO_SERVER_PORT"
        port = environment.get(variable) or "7860"
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"{variable}={port!r} is not a port number. Use 1 to 65535.")
        backend = environment.get("TRIPTYCH_BACKEND") or "int8"
        check_backend(backend)
        runtimes = read_optional("TRIPTYCH_RUNTIMES", environment.get("TRIPTYCH_RUNTIMES"))
        return cls(
            model=Path(environment.get("TRIPTYCH_MODEL") or DEMO_MODEL),
            base=Path(base) if (base := environment.get("TRIPTYCH_BASE")) else None,
            pairs=read_pairs(environment) if args.pairs is None else args.pairs,
            cache=args.cache,
            backend=backend,
            host=environment.get("GRADIO_SERVER_NAME") or "127.0.0.1",
            port=int(port),
            access=_access(args, environment),
            zero_gpu=environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"),
            receipts=(RECEIPTS, *([Path(extra)] if (extra := environment.get("TRIPTYCH_RECEIPTS")) else [])),
            runtimes=(*runtimes, *([backend] if RUNTIMES[backend].is_optional else [])),
        )

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine, without a trailing slash."""
        return server.url(self.host, self.port)

    def bind(self) -> socket.socket:
        """Bind the port without listening yet.

        Raises:
            InputError: the port is taken, or reserved.
        """
        return server.bind(self.host, self.port, f"Use another one: PORT={self.port + 1}")


Serve = Callable[[ServerSettings, Models, TemporaryFiles, Callable[[], None]], None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Serve a model until SIGINT or SIGTERM. Environment variables (TRIPTYCH_MODEL, TRIPTYCH_BACKEND, "
        "PORT, GRADIO_SERVER_NAME and others) select what is served, and where: see the top of ui/start.py."
    )
    add_access(parser)
    parser.add_argument("--cache", type=Path, help="folder of built models (default: ~/.cache/triptych)")
    parser.add_argument(
        "--pairs",
        action=argparse.BooleanOptionalAction,
        help="the model was trained on pairs of texts, or on single ones (default: $TRIPTYCH_PAIRS, else what its "
        "folder says)",
    )
    parser.add_argument(
        "--frame-ancestors",
        metavar="SOURCES",
        help="sites that may embed these pages in a frame, as in Content-Security-Policy (default: "
        "$TRIPTYCH_FRAME_ANCESTORS, else the Hub on a Space and 'self' elsewhere)",
    )
    return parser


def _access(args: argparse.Namespace, environment: Mapping[str, str]) -> Access:
    is_space = bool(environment.get("SPACE_ID"))
    ancestors = args.frame_ancestors or environment.get("TRIPTYCH_FRAME_ANCESTORS") or (HUB if is_space else "'self'")
    if not ancestors.isprintable() or not ancestors.isascii() or set(ancestors) & set(";,"):
        raise InputError("--frame-ancestors requires sources separated by spaces, such as 'self' https://example.org.")
    if is_space and args.forwarded_allow_ips is None and not environment.get("FORWARDED_ALLOW_IPS"):
        args.forwarded_allow_ips = "*"  # only the Hub's proxy reaches the container of a Space
    return read_access(args, environment, frame_ancestors=ancestors, content=CONTENT)


def run(serve: Serve, arguments: Sequence[str] = ()) -> int:
    """Open the models that the environment names, serve them until a signal, and return the exit code.

    It is 0 after SIGINT or SIGTERM, and 2, with one line on stderr, if nothing can be served.

    Args:
        serve: serves the models until a signal comes. It calls its last argument once requests are answered; that
            prints the address and opens the other runtimes.
        arguments: of the command line.
    """
    print_any_text()
    for number in (signal.SIGINT, signal.SIGTERM):  # both end it, also as a background job or in a container
        signal.signal(number, signal.default_int_handler)
    stopping = threading.Event()
    others: list[threading.Thread] = []
    try:
        settings = ServerSettings.read(os.environ, arguments)
        if settings.zero_gpu:
            import_spaces()
        settings.bind().close()  # fails before the model is loaded, which takes time
        with ProgressLine() as progress:
            models = Models.of_folder(
                settings.model, settings.cache, progress, settings.base, settings.pairs, settings.runtimes
            )
        if reason := models.bundle.missing.get(settings.backend):
            print(f"Triptych continues without {TITLES[settings.backend]}: {reason}", file=sys.stderr, flush=True)
            settings = replace(settings, backend=models.bundle.backends[-1])
        models.get(settings.backend)

        def ready() -> None:
            print(f"Triptych serves {models.bundle.name} at {settings.url}", flush=True)
            others.append(threading.Thread(target=_open_others, args=(models, stopping)))
            others[0].start()

        with temporary_files() as files:
            serve(settings, models, files, ready)
    except KeyboardInterrupt:
        print("Triptych stops.", flush=True)
        return 0
    except (InferenceError, OSError) as error:
        print(f"Triptych cannot start: {error.__cause__ or error}", file=sys.stderr)
        return 2
    finally:
        stopping.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        for thread in others:
            thread.join()  # seconds at most; exiting while a model is being loaded would print a traceback
    return 0


def _open_others(models: Models, stopping: threading.Event) -> None:
    _keep()
    for name in models.bundle.backends:
        wait_for_jobs(lambda: not stopping.is_set())
        if stopping.is_set():
            return
        try:
            models.get(name)
        except InferenceError as error:  # the page shows it too, when this runtime is selected
            print(f"Triptych continues without {TITLES[name]}: {error.__cause__ or error}", file=sys.stderr, flush=True)
        _keep()


def _keep() -> None:
    """Leave what is loaded out of later garbage collections.

    Streamlit starts one after every run of a page, during which nothing else runs: with PyTorch it would take 0.3 s.
    """
    gc.collect()
    gc.freeze()
