"""What a hostile visitor sends to the page over HTTP: nothing outside it is read, fetched or served."""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from soak import page as fuzz
from test_app import models, served
from test_serve import PATIENCE_S, started

FILE = {"_type": "gradio.FileData"}
FOREIGN = "http://elsewhere.example"


class Target:
    """A server to attack, and the folder in which all its temporary files must lie."""

    def __init__(self, port: int, temporary: Path, live: str) -> None:
        self.port = port
        self.temporary = temporary
        self.live = live

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers with names in small letters, and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        with connection.getresponse() as response:
            text = response.read().decode(errors="replace")
            received = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        return response.status, received, text

    def post(self, path: str, fields: Any, **headers: str) -> tuple[int, str]:
        status, _, text = self.ask("POST", f"/gradio_api/{path}", json.dumps(fields), **headers)
        return status, text

    def upload(self, name: str, content: bytes, **headers: str) -> tuple[int, str]:
        body = (
            b'--a\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode() + b'"\r\n\r\n' + content
        )
        kind = {"Content-Type": "multipart/form-data; boundary=a"}
        status, _, text = self.ask("POST", "/gradio_api/upload", body + b"\r\n--a--\r\n", **kind | headers)
        return status, text

    def answer(self, endpoint: str, data: list[Any]) -> str:
        """The stream of answers to a question."""
        status, text = self.post(f"call/{endpoint}", {"data": data})
        assert status == 200, text
        return self.ask("GET", f"/gradio_api/call/{endpoint}/{json.loads(text)['event_id']}")[2]

    def files(self) -> set[Path]:
        return {path for path in self.temporary.rglob("*") if path.is_file() and path.name != ".lock"}

    def is_alive(self) -> bool:
        return self.ask("GET", self.live)[0] == 200


@pytest.fixture(scope="module", params=["app.py", pytest.param("serve.py", marks=pytest.mark.slow)])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("temporary")
    if request.param == "serve.py":
        with started(tmp_path_factory.mktemp("serve"), {"TMPDIR": str(folder)}) as server:
            yield Target(server.port, folder, "/api/live")
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(folder))
            with served(models()) as url:
                yield Target(int(url.rpartition(":")[2]), folder, "/theme.css")


def functions(target: Target) -> dict[int, int]:
    """Number of each function of the page -> how many arguments it takes."""
    config = json.loads(target.ask("GET", "/config")[2])
    return {one["id"]: len(one["inputs"]) for one in config["dependencies"] if one["backend_fn"]}


def named(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": FILE, **more}


HOSTILE = [
    named("/etc/hostname"),
    named("/proc/self/environ"),
    named("/dev/zero"),
    named("README.md"),
    named(".git/config"),
    named("../../../../etc/passwd"),
    named(str(ROOT / "assets/showcase.csv")),
    named("http://127.0.0.1:9/secret.csv"),
    named("https://elsewhere.example/a.csv"),
    named("file:///etc/passwd"),
    named("\0"),
    named(""),
    named("/etc/hostname", is_stream=True),
    named("a.csv", is_stream=True),
    named("picture.svg", url="http://127.0.0.1:9/picture.svg"),
    named("/etc/hostname", url="/gradio_api/file=/etc/hostname"),
    {"path": "/etc/hostname"},
    {"path": ["/etc/hostname"], "meta": FILE},
    {"value": named("/etc/hostname")},
    {"__type__": "update", "value": "a"},
    [named("/etc/hostname")],
    [[[["deep"]]]],
    {},
]


def test_arguments_cannot_name_files_that_were_not_uploaded(target: Target) -> None:
    before = target.files()
    tried = 0
    for number, count in functions(target).items():
        for place in range(count):
            for value in HOSTILE:
                data: list[Any] = [None] * count
                data[place] = value
                status, text = target.post(
                    "queue/join", {"data": data, "fn_index": number, "session_hash": "a", "trigger_id": 1}
                )
                assert status == 400, (number, place, value)
                assert "etc" not in text
                tried += 1
    assert tried > 1000
    for endpoint, count in (("predict", 3), ("compare", 2), ("explain", 5)):
        for place in range(count):
            for value in HOSTILE:
                data = ["good", "int8", None, "occlusion", "int8"][:count]
                data[place] = value
                assert target.post(f"call/{endpoint}", {"data": data})[0] == 400
    assert target.files() == before
    assert target.is_alive()


def test_refused_value_is_not_repeated(target: Target) -> None:
    long = "x" * 5_000
    for data in (["good", long, None], ["good", "int8", long], [long * 5, "int8", None]):
        answer = target.answer("predict", data)
        assert "event: error" in answer
        assert long[:100] not in answer
    assert "/" not in json.loads(target.answer("predict", ["good", "gpu", None]).partition("data: ")[2])["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "/proc/self/environ",
        "README.md",
        "app.py",
        "../../etc/passwd",
        "http://127.0.0.1:9/",
        "https://elsewhere.example/",
        "//elsewhere.example/a",
        "%00",
        "/tmp",
        "",
    ],
)
def test_only_uploads_and_results_are_served_as_files(target: Target, path: str) -> None:
    assert target.ask("GET", f"/gradio_api/file={path}")[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=https://elsewhere.example/"),
        ("GET", "/gradio_api/proxy=%00"),
        ("GET", "/gradio_api/file/README.md"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/deep_link?session_hash=a"),
        ("GET", "/gradio_api/custom_component/a/client/a/a"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/token"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/openapi.json"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/logout"),
        ("GET", "/pwa_icon"),
        ("GET", "/static/%00"),
        ("GET", "/static/../../routes.py"),
        ("GET", "/assets/..%2f..%2froutes.py"),
        ("GET", "/svelte/%2e%2e/%2e%2e/routes.py"),
        ("POST", "/login"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/call/v2/run_again"),
        ("POST", "/gradio_api/call/run_again"),
        ("POST", "/gradio_api/stream/a"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/"),
    ],
)
def test_unused_routes_of_gradio_are_missing(target: Target, method: str, path: str) -> None:
    assert target.ask(method, path, "{}" if method == "POST" else None)[0] == 404


def test_malformed_requests_to_every_route_break_nothing(target: Target) -> None:
    draw = random.Random(1)
    statuses = Counter(fuzz.status_of(target.port, fuzz.request_of(draw)) for _ in range(1_000))
    assert {status[0] for status in statuses} <= set("1234"), statuses
    assert target.is_alive()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_refused(target: Target, method: str) -> None:
    assert target.ask(method, "/gradio_api/upload")[0] in (400, 404, 405)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        "a",
        {"data": "a"},
        {"data": {}},
        {"data": [], "fn_index": True, "session_hash": "a"},
        {"data": [], "fn_index": "0", "session_hash": "a"},
        {"data": [None] * 99, "fn_index": 0, "session_hash": "a"},
        {"data": [], "fn_index": 0},
        {"data": [], "fn_index": 0, "session_hash": "../a"},
        {"data": [], "fn_index": 0, "session_hash": "a" * 65},
        {"data": [], "fn_index": 0, "session_hash": ["a"]},
    ],
)
def test_question_of_another_shape_is_refused(target: Target, fields: Any) -> None:
    if isinstance(fields, dict) and type(fields.get("fn_index")) is int:
        fields = fields | {"fn_index": next(iter(functions(target)))}  # one that the server runs
    assert target.post("queue/join", fields)[0] == 400
    assert target.post("call/predict", fields)[0] == 400


def test_fields_that_only_gradio_knows_are_dropped(target: Target) -> None:
    config = json.loads(target.ask("GET", "/config")[2])
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "predict")
    question = {
        "data": ["good", "int8", None, None],
        "fn_index": number,
        "session_hash": "b",
        "request": {"headers": {}},
        "batched": True,
        "event_data": {"_data": named("/etc/hostname")},
        "trigger_id": "a",
        "simple_format": True,
        "oauth_token": "a",
    }
    assert target.post("queue/join", question)[0] == 200
    answer = target.ask("GET", "/gradio_api/queue/data?session_hash=b")[2]
    assert '"success":true' in answer


@pytest.mark.parametrize("origin", [FOREIGN, "null", "http://127.0.0.1:1", "http://127.0.0.1.elsewhere.example", "a"])
def test_requests_from_other_sites_are_refused(target: Target, origin: str) -> None:
    assert target.post("call/predict", {"data": ["good", "int8", None]}, Origin=origin)[0] == 403
    assert target.upload("a.csv", b"text\na\n", Origin=origin)[0] == 403
    assert (
        target.post("call/predict", {"data": ["good", "int8", None]}, Origin=f"http://127.0.0.1:{target.port}")[0]
        == 200
    )
    status, headers, _ = target.ask("GET", "/config", Origin=origin)
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control")]


def test_forwarded_host_counts_only_from_a_named_proxy(target: Target) -> None:
    for name in ("X-Forwarded-Host", "X-Gradio-Server", "X-Forwarded-Proto", "Forwarded", "X-Forwarded-For"):
        _, _, text = target.ask("GET", "/config", **{name: FOREIGN})
        assert json.loads(text)["root"] == f"http://127.0.0.1:{target.port}", name


def test_every_answer_has_safe_headers(target: Target) -> None:
    for path in ("/", "/config", "/nothing", target.live):
        _, headers, _ = target.ask("GET", path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "connect-src 'self'" in headers["content-security-policy"]


def test_stream_without_a_question_is_not_found(target: Target) -> None:
    assert target.ask("GET", f"/gradio_api/call/predict/{'0' * 32}")[0] == 404
    assert target.ask("GET", "/gradio_api/queue/data?session_hash=nobody")[0] == 404
    assert target.ask("GET", "/gradio_api/queue/data")[0] == 404


@pytest.mark.slow
def test_questions_that_wait_take_bounded_memory(target: Target) -> None:
    for text in ("a" * 100_001, "😀" * 200_000):
        assert target.post("call/predict", {"data": [text, "int8", None]})[0] in (400, 413)
    assert "characters" in target.answer("predict", ["a" * 30_000, "int8", None])
    for _ in range(300):
        assert target.post("call/predict", {"data": ["a" * 100_000, "int8", None]})[0] == 200


def test_arguments_can_be_passed_by_name(target: Target) -> None:
    status, text = target.post("call/v2/predict", {"text": "good", "backend": "onnx"})
    assert status == 200
    answer = target.ask("GET", f"/gradio_api/call/v2/predict/{json.loads(text)['event_id']}")[2]
    assert "event: complete" in answer
    for fields in ({}, {"text": "good", "other": 1}, {"text": named("/etc/hostname")}, ["good"]):
        assert target.post("call/v2/predict", fields)[0] == 400


def test_value_that_a_field_cannot_hold_is_refused(target: Target) -> None:
    config = json.loads(target.ask("GET", "/config")[2])
    kinds = {one["id"]: one["type"] for one in config["components"]}
    wrong = {
        "slider": [7, -1, "a", None, True],
        "radio": ["gpu", 3, None],
        "checkbox": ["yes", 1, None],
        "textbox": [3, True],
        "dropdown": [3, 1.5],
    }
    tried = set()
    for function in config["dependencies"]:
        for place, component in enumerate(function["inputs"] if function["backend_fn"] else ()):
            for value in wrong.get(kinds[component], ()):
                data: list[Any] = [None] * len(function["inputs"])
                data[place] = value
                question = {"data": data, "fn_index": function["id"], "session_hash": "a"}
                assert target.post("queue/join", question)[0] == 400, (kinds[component], value)
                tried.add(kinds[component])
    assert tried == set(wrong)


def test_questions_without_a_listener_never_run(target: Target) -> None:
    for _ in range(400):  # more than may wait
        assert target.post("call/predict", {"data": ["good", "int8", None]})[0] == 200
    assert "event: complete" in target.answer("compare", ["good", None])


def test_session_may_have_few_questions_waiting(target: Target) -> None:
    statuses = [
        target.post("call/predict", {"data": ["good", "int8", None], "session_hash": "greedy"})[0] for _ in range(20)
    ]
    assert statuses == [200] * 16 + [503] * 4
    status, headers, text = target.ask(
        "POST", "/gradio_api/call/predict", '{"data": ["good", "int8", null], "session_hash": "greedy"}'
    )
    assert (status, headers["retry-after"]) == (503, "5")
    assert "Try again in a few seconds" in text
