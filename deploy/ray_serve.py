"""The HTTP API on Ray Serve: as many copies of the model as there is work for, on one machine or on many.

    python deploy/ray_serve.py assets/models/demo --max-replicas 4

It needs requirements-scale.txt. Each replica is the application that `python -m inference serve` serves, with its queue
and its batches; Ray Serve spreads requests over them, starts more while more than `TARGET` wait at each, and ends them
when there is less to do. One machine has nothing to gain beyond its cores: a single `serve` uses all of them.

Without RAY_ADDRESS a cluster of this machine is started: it listens on the loopback address, wants Ray's token, has no
dashboard and tells nobody how it is used. (Ray Serve's replicas alone listen on every address, each on a port of its
own that refuses whoever has no token: keep such ports closed to the outside.) With RAY_ADDRESS that cluster is used, as
it is set up; the model is then a Hub id or a folder that every node has, and each node builds its ONNX and INT8 files
once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from inference.api.access import read_key  # noqa: E402
from inference.artifacts.cache import content_key  # noqa: E402
from inference.errors import InferenceError  # noqa: E402
from inference.formats.describe import describe  # noqa: E402
from inference.score.ray_data import SETTINGS  # noqa: E402

for name, value in SETTINGS.items():  # read when Ray is imported
    os.environ.setdefault(name, value)

from ray import serve  # noqa: E402

TARGET = 16  # requests at a replica: two full batches, one in the model and one that gathers
MOST = 256  # requests that a replica takes on; its own queue turns texts away before that
WAITING = 1024  # requests that wait for a replica; more get 503 from Ray Serve


@serve.ingress()
class Api:
    """One replica: a model, opened once, and the API before it.

    Args:
        threads: processor cores of a forward pass, as many as Ray keeps free for the replica.
        content: key of the model, as for `load`: a replica that is started later opens no other.
        api_key: as in `create_app`.
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
        """Ray Serve replaces a replica whose model does not answer."""
        await self._app.state.service.probe()


def build(arguments: dict[str, str]) -> serve.Application:
    """The application, for `serve run deploy.ray_serve:build model=… backend=int8 threads=1 max_replicas=8`."""
    threads = int(arguments.get("threads", 1))
    deployment = serve.deployment(
        Api,
        name="triptych",
        max_ongoing_requests=MOST,
        max_queued_requests=WAITING,
        ray_actor_options={"num_cpus": threads},
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": int(arguments.get("max_replicas", 4)),
            "target_ongoing_requests": TARGET,
        },
        graceful_shutdown_timeout_s=10,
    )
    key = read_key(Path(arguments["api_key_file"]) if "api_key_file" in arguments else None, os.environ)
    model = arguments["model"]
    content = content_key(describe(model)) if Path(model).is_dir() else None  # else only the nodes have its files
    return deployment.bind(model, arguments.get("backend", "int8"), threads, content, key)


def main() -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    import ray

    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("model", help="a model folder, or OWNER/NAME on the Hub")
    p.add_argument("--backend", default="int8", help="(default: %(default)s)")
    p.add_argument("--threads", default="1", help="cores of a replica (default: %(default)s)")
    p.add_argument("--max-replicas", default="4", help="(default: %(default)s)")
    p.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from outside (default: %(default)s)")
    p.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    p.add_argument("--api-key-file", help="as of `python -m inference serve`")
    args = p.parse_args()
    stopping = threading.Event()
    model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model
    chosen = {"model": model, "backend": args.backend, "threads": args.threads, "max_replicas": args.max_replicas}
    if args.api_key_file:
        chosen["api_key_file"] = args.api_key_file
    try:
        application = build(chosen)
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False)
        else:
            found = {"env_vars": {"PYTHONPATH": str(ROOT)}}
            ray.init(address="local", include_dashboard=False, log_to_driver=False, runtime_env=found)
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
    print("Triptych stops.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
