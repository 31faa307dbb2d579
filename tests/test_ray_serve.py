"""The API on Ray Serve, on a cluster of this machine. It needs requirements-scale.txt."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from ports import listening, on_a_free_port
from served import PATIENCE_S, Served

from inference.artifacts.cache import default_cache

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no ray: requirements-scale.txt")
LOST = ("Cannot listen on", "Failed to bind to address")  # by the command, or by Ray Serve a moment later
WORDS = ["lovely", "dreadful", "boring", "wonderful"]


@pytest.fixture(scope="module")
def started(demo: Path, demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    home = tmp_path_factory.mktemp("ray")
    (home / "key").write_text("sesame")
    bare = {name: "" for name in os.environ if name.startswith("RAY_")}
    command = [sys.executable, "-m", "deploy.ray_serve", str(demo), "--max-replicas", "2"]
    command += ["--api-key-file", str(home / "key"), "--port"]
    here = bare | {"HOME": str(home), "XDG_CACHE_HOME": str(default_cache().parent)}
    here["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = str(PATIENCE_S)  # Ray's 5 s are short on a busy machine
    return on_a_free_port(lambda port: Served([*command, str(port)], here), *LOST)


@pytest.mark.ray
def test_local_cluster_serves_the_api_until_sigterm(started: Served) -> None:
    key = {"X-API-Key": "sesame"}
    with started as server:
        assert server.ask("/api/live")[0] == 200
        assert server.ask("/api/ready")[1]["backend"] == "int8"
        assert server.ask("/api/model")[0] == 401
        bodies = [{"text": f"what a {word} film", "tasks": ["sentiment"]} for word in WORDS * 8]
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda body: server.ask("/api/predict", body, **key), bodies))
        assert {status for status, _ in replies} == {200}
        labels = [answer["prediction"] for _, answer in replies]
        assert labels == ["positive", "negative", "negative", "positive"] * 8
        status, answer = server.ask("/api/predict", {"text": " "}, **key)
        assert (status, answer["error"]["code"]) == (422, "invalid_request")
        listened = listening(server.process.pid)
        assert ("127.0.0.1", server.port) in listened
        check_that_calls_need_a_token({port for address, port in listened if address in ("::", "0.0.0.0")})
        code, out, err = server.end()
        assert code == 0, err
        assert out.endswith("Triptych stops.\n")  # Ray may print something before


def check_that_calls_need_a_token(ports: set[int]) -> None:
    """Check that those of these ports that speak gRPC (Ray Serve's replicas) do nothing without a token."""
    import grpc

    asked = 0
    for port in ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=PATIENCE_S)
        if refused.value.code() != grpc.StatusCode.UNAVAILABLE:  # it speaks no gRPC
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            asked += 1
    assert asked


@pytest.mark.slow
def test_taken_port_is_an_error_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "deploy.ray_serve", "assets/models/demo", "--port", str(port)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: Cannot listen on 127.0.0.1:{port} (")
    assert done.stderr.endswith(f"Choose another port: --port {port + 1}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_arguments_configure_the_deployment() -> None:
    code = (
        "import json; from deploy.ray_serve import build; import os;"
        "d = build({'model': 'm', 'max_replicas': '7', 'threads': '2'})._bound_deployment;"
        "c = d._deployment_config.autoscaling_config;"
        "print(json.dumps([c.min_replicas, c.max_replicas, d.ray_actor_options['num_cpus'],"
        "os.environ['RAY_AUTH_MODE'], os.environ['RAY_USAGE_STATS_ENABLED']]))"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=bare)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 7, 2, "token", "0"]
