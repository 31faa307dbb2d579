"""The layer before every server: hosts, origins, proxies and headers, over real connections."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import os
import socket
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import fakes
import pytest
from asgi import Client
from fastapi import FastAPI
from test_app import models
from threads import PATIENCE_S, running

from inference.api import create_app
from inference.api import server as server_module
from inference.api.access import add_access, read_access
from inference.api.front import Access, Front, is_own
from inference.errors import InputError
from ui.files import temporary_files
from ui.page import build
from ui.site import mount_page
from ui.start import ServerSettings


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what an application sees of a request."""
    if scope["type"] != "http":
        return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    seen = {name: scope[name] for name in ("scheme", "path", "root_path")} | {"raw_path": scope["raw_path"].decode()}
    body = json.dumps({"headers": headers, "client": scope["client"][0], **seen}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Start a response that never ends."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.Event().wait()


@pytest.fixture(scope="module")
def echoing() -> Iterator[Callable[[Access], str]]:
    """A function to the address of a server with `echo` and this access; each runs until the module's last test."""
    with ExitStack() as servers:
        yield functools.cache(lambda access: servers.enter_context(running(echo, access)))


def ask(url: str, method: str = "GET", path: str = "/", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.partition("//")[2], timeout=PATIENCE_S)
    connection.request(method, path, headers=headers)
    with connection.getresponse() as response:
        status, body = response.status, response.read()
    connection.close()
    return status, json.loads(body)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("demo.example", 200),
        ("DEMO.example:8080", 200),
        ("a.team.example", 200),
        ("[::1]:80", 200),
        ("team.example", 400),
        ("demo.example.evil", 400),
        ("evil-demo.example", 400),
        ("127.0.0.1", 400),
    ],
)
def test_only_named_hosts_are_answered(host: str, status: int, echoing: Callable[[Access], str]) -> None:
    url = echoing(Access(allowed_hosts=("demo.example", "*.team.example", "[::1]")))
    answered, body = ask(url, Host=host)
    assert answered == status
    if status == 400:
        assert body["error"]["code"] == "unknown_host"
        assert host not in body["error"]["message"]


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://a.example", "a.example", True),
        ("https://a.example", "a.example", True),  # a proxy brings TLS
        ("https://a.example", "a.example:443", True),
        ("http://A.example:80", "a.example", True),
        ("http://a.example:7860", "a.example:7860", True),
        ("http://[::1]:7860", "[::1]:7860", True),
        ("http://a.example:7861", "a.example:7860", False),
        ("http://b.example", "a.example", False),
        ("http://a.example.b.example", "a.example", False),
        ("https://a.example:80", "a.example", False),
        ("null", "a.example", False),
        ("null", "null", False),
        ("", "", False),
        ("http://", "", False),
        ("file://", "", False),
        ("a.example", "a.example", False),
        ("chrome-extension://a.example", "a.example", False),
    ],
)
def test_origin_is_own_if_it_names_the_host(origin: str, host: str, own: bool) -> None:
    assert is_own(origin.encode(), host.encode()) is own


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_unsafe_methods_are_refused_from_other_sites(method: str, echoing: Callable[[Access], str]) -> None:
    url = echoing(Access())
    assert ask(url, method, Origin="http://elsewhere.example")[1]["error"]["code"] == "foreign_origin"
    assert ask(url, method, Origin=url)[0] == 200
    assert ask(url, method)[0] == 200
    assert ask(url, "GET", Origin="http://elsewhere.example")[0] == 200


FORWARDED = {
    "X-Forwarded-Host": "spoofed.example, demo.example",
    "X-Forwarded-Proto": "http, https",
    "X-Forwarded-For": "192.0.2.7",
    "X-Gradio-Server": "http://elsewhere.example",
    "Forwarded": "for=192.0.2.8",
}


def test_headers_of_a_trusted_proxy_count(echoing: Callable[[Access], str]) -> None:
    url = echoing(Access(trusted_proxies=("127.0.0.0/8",)))
    _, seen = ask(url, **FORWARDED)
    assert (seen["headers"]["host"], seen["scheme"], seen["client"]) == ("demo.example", "https", "192.0.2.7")
    assert not [name for name in seen["headers"] if "forwarded" in name or "gradio" in name]
    assert ask(url, "POST", Origin="https://demo.example", **FORWARDED)[0] == 200
    assert ask(url, "POST", Origin=url, **FORWARDED)[0] == 403
    url = echoing(Access(trusted_proxies=("*",), allowed_hosts=("demo.example",)))
    assert ask(url, **FORWARDED)[0] == 200
    assert ask(url)[0] == 400


@pytest.mark.parametrize("host", ["[::1", "a:99999999", "a@b", 'a"><script>', "a/b?c#d"])
def test_forwarded_host_must_be_a_host(host: str, echoing: Callable[[Access], str]) -> None:
    url = echoing(Access(trusted_proxies=("*",)))
    assert ask(url, **{"X-Forwarded-Host": host})[0] == 400


@pytest.mark.parametrize("proxies", [(), ("192.0.2.1",)])
def test_headers_of_other_senders_are_ignored(proxies: tuple[str, ...], echoing: Callable[[Access], str]) -> None:
    url = echoing(Access(trusted_proxies=proxies))
    _, seen = ask(url, **FORWARDED)
    assert (f"http://{seen['headers']['host']}", seen["scheme"], seen["client"]) == (url, "http", "127.0.0.1")
    assert not [name for name in seen["headers"] if "forwarded" in name or "gradio" in name]


@pytest.mark.parametrize(
    ("prefix", "asked", "root", "path"),
    [
        ("/demo", "/a%20b", "/demo", "/demo/a b"),
        ("/demo/", "/", "/demo", "/demo/"),
        ("/a/b-c_d.e~1", "/x", "/a/b-c_d.e~1", "/a/b-c_d.e~1/x"),
        ("/theirs, /ours", "/x", "/ours", "/ours/x"),  # the last proxy's is the one to trust
        ("/demo", "/demo/x", "/demo", "/demo/x"),  # the proxy has not removed it
        ("/demo", "/demonstration", "/demo", "/demo/demonstration"),
        ("/api", "/api/predict", "/api", "/api/api/predict"),  # ... and here it must, since /api is an address of ours
        ("/", "/x", "", "/x"),
        ("", "/x", "", "/x"),
    ],
)
def test_prefix_of_a_trusted_proxy_is_the_root_path(
    prefix: str, asked: str, root: str, path: str, echoing: Callable[[Access], str]
) -> None:
    url = echoing(Access(trusted_proxies=("127.0.0.1",), root_path="/other"))
    _, seen = ask(url, path=asked, **{"X-Forwarded-Prefix": prefix})
    assert (seen["root_path"], seen["path"], seen["raw_path"]) == (root, path, path.replace(" ", "%20"))
    assert "x-forwarded-prefix" not in seen["headers"]
    assert ask(url)[1]["path"] == "/other/"
    url = echoing(Access())
    _, seen = ask(url, path=asked, **{"X-Forwarded-Prefix": prefix})
    assert (seen["root_path"], seen["raw_path"]) == ("", asked)


@pytest.mark.parametrize(
    "prefix",
    [
        *("demos", "//evil.example", "/a//b", "/..", "/a/../b", "/a/.", "/a b", "/a?b", "/a#b", '/"><b>', "/%2e", "/é"),
        *("/a\\b", "/a" * 9, "/" + "a" * 129, "http://evil.example/"),
    ],
)
def test_prefix_must_be_a_plain_path(prefix: str, echoing: Callable[[Access], str]) -> None:
    url = echoing(Access(trusted_proxies=("*",)))
    status, body = ask(url, **{"X-Forwarded-Prefix": prefix})
    assert (status, "X-Forwarded-Prefix is not a path" in body["error"]["message"]) == (400, True)
    assert prefix not in body["error"]["message"]
    with pytest.raises(InputError, match="--root-path takes a path such as /demo"):
        ServerSettings.read({}, ["--root-path", prefix])


def test_root_path_is_an_option_and_a_variable() -> None:
    assert ServerSettings.read({}, ["--root-path", "/demo/"]).access.root_path == "/demo"
    assert ServerSettings.read({"TRIPTYCH_ROOT_PATH": "/demo"}).access.root_path == "/demo"
    assert ServerSettings.read({"TRIPTYCH_ROOT_PATH": "/demo"}, ["--root-path", ""]).access.root_path == ""


def test_api_below_a_path_describes_itself_there() -> None:
    api = create_app(fakes.classifier(), cors_origins=["https://a.example"])
    below = Client(Front(api, Access(root_path="/demo", cors_origins=("https://a.example",))))
    assert "/demo/api/predict" in below.get("/api/nothing").message
    assert below.get("/api/openapi.json").json()["servers"] == [{"url": "/demo"}]
    assert cors(below, "POST", "/api/predict", "https://a.example")[0] == 200
    above = Client(Front(api, Access()))
    assert "servers" not in above.get("/api/openapi.json").json()
    for client in (below, above):
        client.loop.close()
    api.state.service.close()


def test_request_without_a_host_is_refused_with_what_a_proxy_must_pass_on(echoing: Callable[[Access], str]) -> None:
    url = echoing(Access())
    host, _, port = url.partition("//")[2].partition(":")
    for version, path, status in (("1.1", "/", 400), ("1.0", "/", 400), ("1.0", "/api/live", 200)):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(f"GET {path} HTTP/{version}\r\n\r\n".encode())
            answer = connection.makefile("rb").read()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert (b"nginx: proxy_set_header Host $http_host;" in answer) is (status == 400)


def test_refused_origin_is_logged_once_and_answered_every_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(echo, Access()) as url:
        for _ in range(3):
            answer = ask(url, "POST", Origin="https://demo.example")[1]["error"]["message"]
            assert "pass on the Host header" in answer
    assert [record.message for record in caplog.records if "Host header" in record.message] == [answer]


@pytest.mark.parametrize(
    ("environment", "headers", "root"),
    [
        ({"SPACE_ID": "me/demo"}, {"X-Forwarded-Host": "me-demo.hf.space", "X-Forwarded-Proto": "https"}, True),
        ({"SPACE_ID": "me/demo"}, {"Host": "me-demo.hf.space", "X-Forwarded-Proto": "https"}, True),
        ({"FORWARDED_ALLOW_IPS": "*"}, {"Host": "me-demo.hf.space", "X-Forwarded-Proto": "https"}, True),
        ({}, {"X-Forwarded-Host": "me-demo.hf.space", "X-Forwarded-Proto": "https"}, False),
    ],
)
def test_page_has_its_public_address_behind_the_proxy_of_a_space(
    environment: dict[str, str], headers: dict[str, str], root: bool
) -> None:
    access = ServerSettings.read(environment).access
    assert ("huggingface.co" in access.frame_ancestors) is ("SPACE_ID" in environment)
    with temporary_files() as files:
        site = FastAPI(openapi_url=None)
        page = mount_page(site, build(models()), files)
        with running(site, access, page.stop_event.set) as url:
            connection = http.client.HTTPConnection(url.partition("//")[2], timeout=PATIENCE_S)
            connection.request("GET", "/config", headers=headers)
            config = json.load(connection.getresponse())
            connection.close()
    assert config["root"] == ("https://me-demo.hf.space" if root else url)


def test_stream_cut_at_shutdown_logs_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server_module, "GRACE_S", 0)
    with running(endless, Access()) as url:
        connection = http.client.HTTPConnection(url.partition("//")[2], timeout=PATIENCE_S)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.read(1) == b"a"
    with pytest.raises(http.client.IncompleteRead):  # the client sees that it is not the whole answer
        response.read()
    connection.close()
    message = "Cancel 1 running task(s), timeout graceful shutdown exceeded"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(message)  # with or without its level: other tests set up logging too


def cors(app: Any, method: str, path: str, origin: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and the headers for browsers of a request from a page of this origin."""
    asked = {"origin": origin, "content-type": "application/json"} | headers
    reply = app.run(app.ask(path, b'{"text": "good"}' if method == "POST" else b"", asked, method))
    return reply.status, {name: value for name, value in reply.headers.items() if name.startswith("access-control")}


@pytest.fixture
def opened() -> Iterator[Callable[..., Client]]:
    """A function from origins to the API that is open for their pages, behind the front, with a key."""
    clients = []

    def open_for(*origins: str) -> Client:
        api = create_app(fakes.classifier(), api_key="KEY", cors_origins=origins)
        client = Client(Front(api, Access(cors_origins=origins)))
        clients.append((api, client))
        return client

    yield open_for
    for api, client in clients:
        api.state.service.close()
        client.loop.close()


@pytest.mark.parametrize("origins", [("https://a.example", "http://b.example:8080"), ("*",)])
def test_pages_of_named_origins_may_use_the_api(opened: Callable[..., Client], origins: tuple[str, ...]) -> None:
    client = opened(*origins)
    preflight = {"access-control-request-method": "POST"}
    for wanted in ("authorization,content-type", "x-api-key"):
        names = {"access-control-request-headers": wanted}
        status, headers = cors(client, "OPTIONS", "/api/predict", "https://a.example", **preflight, **names)
        assert status == 200
        assert headers["access-control-allow-origin"] in ("https://a.example", "*")
        assert "access-control-allow-credentials" not in headers
    for key, expected in (({"x-api-key": "KEY"}, 200), ({}, 401)):  # an error can be read too
        status, headers = cors(client, "POST", "/api/predict", "https://a.example", **key)
        assert (status, headers["access-control-allow-origin"] in ("https://a.example", "*")) == (expected, True)
        assert "access-control-allow-credentials" not in headers


def test_other_origins_and_other_pages_stay_closed(opened: Callable[..., Client]) -> None:
    client, key = opened("https://a.example"), {"x-api-key": "KEY"}
    for origin in ("https://b.example", "http://a.example", "https://a.example:8443", "https://a.example.evil", "null"):
        assert cors(client, "POST", "/api/predict", origin, **key) == (403, {})
        preflight = cors(client, "OPTIONS", "/api/predict", origin, **{"access-control-request-method": "POST"})
        assert "access-control-allow-origin" not in preflight[1]
        assert cors(client, "GET", "/api/model", origin, **key)[1].keys() <= {"access-control-expose-headers"}
    for path in ("/gradio_api/call/predict", "/", "/api", "/apix/predict", "/dashboard/_stcore/upload_file/a/b"):
        assert cors(client, "POST", path, "https://a.example", **key) == (403, {})
    plain = opened()
    assert cors(plain, "POST", "/api/predict", "https://a.example", **key) == (403, {})
    assert cors(plain, "OPTIONS", "/api/predict", "https://a.example", **key)[0] == 405


def test_cors_origins_are_read_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ServerSettings.read({}, ["--cors-origin", "HTTPS://A.example:443", "--cors-origin", "http://b.example:8080"])
    assert read.access.cors_origins == ("https://a.example", "http://b.example:8080")
    assert ServerSettings.read({"TRIPTYCH_CORS_ORIGINS": "*"}).access.cors_origins == ("*",)
    for origin in ("a.example", "https://a.example/", "https://a.example/x", "null", "https://*.a.example", "", "é"):
        with pytest.raises(InputError, match="--cors-origin takes a scheme and a host"):
            ServerSettings.read({}, ["--cors-origin", origin])


def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = ArgumentParser()
    add_access(parser)
    monkeypatch.setenv("TRIPTYCH_ALLOWED_HOSTS", "a.example, b.example,")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.0/24")
    assert read_access(parser.parse_args([]), os.environ) == Access(("a.example", "b.example"), ("192.0.2.0/24",))
    given = parser.parse_args(["--allowed-hosts", "c.example", "--forwarded-allow-ips", ""])
    assert read_access(given, os.environ) == Access(("c.example",), ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allowed-hosts", "http://a.example"], "--allowed-hosts takes host names"),
        (["--allowed-hosts", "a b"], "--allowed-hosts takes host names"),
        (["--allowed-hosts", ""], "--allowed-hosts takes host names"),
        (["--forwarded-allow-ips", "nonsense"], "--forwarded-allow-ips takes addresses"),
    ],
)
def test_invalid_hosts_and_proxies_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServerSettings.read({}, arguments)


@pytest.mark.parametrize("sources", ["'self'; script-src *", "a\nb", "é", "a, b"])
def test_frame_ancestors_cannot_change_the_rest_of_the_policy(sources: str) -> None:
    with pytest.raises(InputError, match="--frame-ancestors requires sources"):
        ServerSettings.read({}, ["--frame-ancestors", sources])
    assert (
        ServerSettings.read({}, ["--frame-ancestors", "https://a.example"]).access.frame_ancestors
        == "https://a.example"
    )
