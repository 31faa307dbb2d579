"""Page, dashboard and API behind a proxy, in a browser: TLS, frames of other sites, other names, and a path."""

from __future__ import annotations

import functools
import http.client
import http.server
import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy import certificate, proxy
from test_serve import Started, started

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which makes certificates")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Page, dashboard and API, which trust the proxy and may be embedded by pages of hub.example."""
    environment = {"FORWARDED_ALLOW_IPS": "127.0.0.1", "TRIPTYCH_FRAME_ANCESTORS": "https://hub.example:*"}
    with started(tmp_path_factory.mktemp("serve"), environment) as server:
        yield server


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A browser's profile, which accepts the certificate."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(300_000)
    yield context
    context.close()


@pytest.fixture
def upload(context: Any, tmp_path: Path) -> Callable[..., int]:
    """A function from an address of the dashboard, perhaps in a frame, to the status of an upload there."""
    file = tmp_path / "mine.csv"
    file.write_text("text\nfine\n")

    def upload(url: str, in_frame: bool = False) -> int:
        page = context.new_page()
        page.goto(url)
        dashboard = page.frame_locator("iframe") if in_frame else page
        dashboard.get_by_test_id("stButtonGroup").get_by_text("emotion (").click()  # without its texts
        field = dashboard.locator("input[type=file]").first
        with page.expect_response(lambda response: "/upload_file/" in response.url) as answer:
            field.set_input_files(file)
        page.close()
        return int(answer.value.status)

    return upload


@pytest.fixture
def hub(tmp_path: Path, tls: ssl.SSLContext) -> Iterator[tuple[Path, int]]:
    """A folder that is served over TLS, and the port."""
    folder = tmp_path / "hub"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        with proxy(pages.server_port, tls=tls) as (port, _):
            yield folder, port
        pages.shutdown()
        thread.join()


@pytest.mark.parametrize("headers", [{"X-Forwarded-Proto": "https"}, pytest.param({}, marks=pytest.mark.slow)])
def test_files_are_uploaded_in_a_frame_of_another_site_over_tls(
    server: Started, tls: ssl.SSLContext, hub: tuple[Path, int], upload: Callable[..., int], headers: dict[str, str]
) -> None:
    folder, port = hub
    with proxy(server.port, "", headers, tls) as (space, _):
        address = f"https://space.example:{space}/dashboard/disagreements"
        (folder / "index.html").write_text(f'<iframe src="{address}" width=1200 height=800></iframe>')
        assert upload(f"https://hub.example:{port}/", in_frame=True) == 204


@pytest.mark.slow
def test_each_way_to_the_dashboard_has_a_cookie_that_works(
    server: Started, tls: ssl.SSLContext, hub: tuple[Path, int], upload: Callable[..., int]
) -> None:
    folder, port = hub
    with proxy(server.port, "", tls=tls) as (space, _):
        address = f"https://space.example:{space}/dashboard/disagreements"
        (folder / "index.html").write_text(f'<iframe src="{address}" width=1200 height=800></iframe>')
        for _ in range(2):
            assert upload(f"https://hub.example:{port}/", in_frame=True) == 204
            assert upload(f"http://space.example:{server.port}/dashboard/disagreements") == 204
            assert upload(address) == 204


def test_files_are_uploaded_under_a_second_name_without_tls(server: Started, upload: Callable[..., int]) -> None:
    assert upload(f"http://lan.example:{server.port}/dashboard/disagreements") == 204


def test_page_dashboard_and_api_work_below_a_path(server: Started, upload: Callable[..., int], context: Any) -> None:
    with proxy(server.port, "/demo", {"X-Forwarded-Prefix": "/demo/"}) as (port, outside):
        site = f"http://lan.example:{port}/demo"
        page = context.new_page()
        page.goto(f"{site}/")
        page.locator("#text textarea").fill("good")
        page.locator("#text textarea").press("Enter")
        page.locator("td.int8[data-task=sentiment]").get_by_text("positive").wait_for()
        assert page.get_by_role("alert").count() == 0
        page.get_by_role("link", name="Compare", exact=True).click()
        page.locator(".answer").wait_for()
        assert page.url == f"{site}/dashboard/"
        page.get_by_text("Method", exact=True).first.click()
        page.wait_for_url(f"{site}/dashboard/method")
        page.reload()
        page.get_by_role("link", name="Try", exact=True).click()
        page.locator("#text textarea").wait_for()
        assert page.url == f"{site}/"
        page.close()
        assert upload(f"{site}/dashboard/disagreements") == 204
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/demo/api/predict", '{"text": "good"}', {"Content-Type": "application/json"})
        with connection.getresponse() as answer:
            assert json.load(answer)["predictions"]["sentiment"]["label"] == "positive"
        connection.close()
    assert set(outside) <= {"/favicon.ico", "/manifest.json"}  # browsers ask for these at the root


@pytest.mark.parametrize(
    ("prefix", "headers", "remedy"),
    [
        ("", {"Host": "127.0.0.1:7860"}, "proxy_set_header Host $http_host"),
        ("/demo", {}, "X-Forwarded-Prefix"),
    ],
)
def test_page_says_what_a_proxy_must_pass_on(
    server: Started, context: Any, prefix: str, headers: dict[str, str], remedy: str
) -> None:
    with proxy(server.port, prefix, headers) as (port, _):
        page = context.new_page()
        page.goto(f"http://lan.example:{port}{prefix}/")
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert remedy in alert.inner_text()
        page.close()


@pytest.mark.slow
def test_proxy_that_passes_no_host_gets_the_reason(server: Started) -> None:
    with proxy(server.port, "", {"Host": None}) as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/")
        with connection.getresponse() as answer:
            assert (answer.status, b"proxy_set_header Host $http_host" in answer.read()) == (400, True)
        connection.close()


@pytest.mark.slow
def test_proxy_that_passes_no_websockets_gets_the_reason(server: Started) -> None:
    with proxy(server.port, "/demo", {"X-Forwarded-Prefix": "/demo", "Upgrade": None, "Connection": "close"}) as (
        port,
        _,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        connection.request("GET", "/demo/dashboard/_stcore/stream", headers=handshake)
        with connection.getresponse() as answer:
            assert (answer.status, b"must pass on the headers Upgrade" in answer.read()) == (426, True)
        connection.close()
