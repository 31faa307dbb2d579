"""The HTTP API on Ray Serve: replicas of the model that follow the load, on one machine or on many.

    python -m deploy.ray_serve assets/models/demo --max-replicas 4

Requires requirements-scale.txt. Each replica is the application of `python -m inference serve`, with its own queue and
batches; Ray Serve distributes requests and starts a replica while more than `TARGET_REQUESTS` wait at each. A single
machine gains nothing: one `serve` uses all its cores.

Without RAY_ADDRESS this starts a cluster of this machine, which listens on the loopback address, requires Ray's token,
has no dashboard and sends no usage statistics. (Only the replicas of Ray Serve listen on every address; their ports
refuse requests without the token: close them to the outside.) With RAY_ADDRESS it uses that cluster as it is set up;
the model is then a Hub id or a folder that every node has, and each node builds its ONNX and INT8 files once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from inference.api import server
from inference.api.access import read_key
from inference.errors import InferenceError
from inference.formats.describe import describe
from inference.formats.identity import content_key
from inference.jobs import print_any_text
from inference.score.ray_data import SETTINGS

for name, value in SETTINGS.items():  # read when Ray is imported
    os.environ.setdefault(name, value)

import ray  # noqa: E402
from ray import serve  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
TARGET_REQUESTS = 16  # per replica: two full batches, one in the model and one that gathers
MAX_REQUESTS = 256  # per replica; its own queue refuses texts before that
MAX_QUEUED = 1024  # requests that wait for a replica; more get 503 from Ray Serve


@serve.ingress()
class Api:
    """One replica: a model and its API.

    Args:
        threads: CPU cores per forward pass, which Ray reserves for the replica.
        content: content key of the model: a replica that starts later refuses a changed model.
    """

    def __init__(self, model: str, backend: str, threads: int, content: str | None, api_key: str | None) -> None:
        from inference.api import create_app
        from inference.loading import load

        classifier = load(model, backend, threads=threads, content=content)
        classifier.classify("warm up")
        self._app = create_app(classifier, api_key=api_key)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def check_health(self) -> None:
        """Raise if the model does not answer: Ray Serve then replaces the replica."""
        await self._app.state.service.probe()


def build(arguments: dict[str, Any]) -> serve.Application:
    """Return the application: `serve run deploy.ray_serve:build model=… backend=int8 threads=1 max_replicas=8`."""
    threads = int(arguments.get("threads", 1))
    deployment = serve.deployment(
        Api,
        name="triptych",
        max_ongoing_requests=MAX_REQUESTS,
        max_queued_requests=MAX_QUEUED,
        ray_actor_options={"num_cpus": threads},
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": int(arguments.get("max_replicas", 4)),
            "target_ongoing_requests": TARGET_REQUESTS,
        },
        graceful_shutdown_timeout_s=10,
    )
    key = read_key(Path(arguments["api_key_file"]) if "api_key_file" in arguments else None, os.environ)
    model = arguments["model"]
    content = content_key(describe(model)) if Path(model).is_dir() else None  # the nodes may have it
    return deployment.bind(model, arguments.get("backend", "int8"), threads, content, key)


def main() -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    print_any_text()
    p = argparse.ArgumentParser("python -m deploy.ray_serve", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("model", help="a model folder, or OWNER/NAME on the Hub")
    p.add_argument("--backend", default="int8", help="the runtime (default: %(default)s)")
    p.add_argument("--threads", type=int, default=1, help="cores per replica (default: %(default)s)")
    p.add_argument("--max-replicas", type=int, default=4, help="(default: %(default)s)")
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for access from outside (default: %(default)s)")
    p.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    p.add_argument("--api-key-file", help="as for `python -m inference serve`")
    args = p.parse_args()
    stopping = threading.Event()
    arguments = {name: value for name, value in vars(args).items() if value is not None}
    if Path(args.model).is_dir():
        arguments["model"] = str(Path(args.model).resolve())
    try:
        server.bind(args.host, args.port, f"Choose another port: --port {args.port + 1}").close()
        application = build(arguments)
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False)
        else:
            environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
            ray.init(address="local", include_dashboard=False, log_to_driver=False, runtime_env=environment)
        serve.start(http_options={"host": args.host, "port": args.port})
        serve.run(application, name="triptych", route_prefix="/")
        for number in (signal.SIGINT, signal.SIGTERM):  # only now: Ray sets handlers of its own
            signal.signal(number, lambda *_: stopping.set())
        print(f"Triptych serves {args.model} at http://{args.host}:{args.port}/api", flush=True)
        stopping.wait()
        serve.shutdown()
        ray.shutdown()
    except InferenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError, ray.exceptions.RayError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        print(f"error: Ray Serve failed. {reason}", file=sys.stderr)
        return 2
    print("Triptych stops.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
