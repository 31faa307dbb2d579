"""What a visitor gets: the weight and the times of each first load, and pictures.

    python tests/views.py weigh [--out FILE]
    python tests/views.py pictures [--out assets]

Both start serve.py with the demo model, and stage the static page where its library can be fetched. Bytes are those on
the wire in a new browser without a cache, websockets included; the times are of this machine as busy as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from chromium import PATIENCE_MS, chromium, sync_api  # noqa: E402
from ports import free_port  # noqa: E402
from served import Served  # noqa: E402
from static_site import served  # noqa: E402

from deploy.static import static_files  # noqa: E402
from inference.assets import DEMO_MODEL  # noqa: E402
from inference.formats.describe import describe  # noqa: E402

MAX_BYTES = 2_000_000  # of a first load
QUIET_S = 3  # without a request: all of it is there
SHIFTS = """window.shift = 0; new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true })"""


@dataclass(frozen=True)
class View:
    """A page to open.

    Attributes:
        verdict: a selector of what answers the visitor's question.
        chart: a selector of what is drawn last.
    """

    path: str
    verdict: str
    chart: str


PAGE = View("", ".triptych td:not(.coming) .best", ".triptych:not(:has(.coming)) .best")
OVERVIEW = View("dashboard/", ".answer h2", "[data-testid=stMain] .drawing[role=img]")
STATIC = View("", ".card .guess", ".card .bars")


@contextmanager
def product() -> Iterator[str]:
    """Serve page, dashboard and API with the demo model; the address ends with a slash."""
    port = str(free_port())
    with Served([sys.executable, "serve.py"], {"PORT": port, "TRIPTYCH_MODEL": None, "TRIPTYCH_API_KEY": None}):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def static_page() -> Iterator[str]:
    """Serve the static page of the demo model from a temporary folder, as a host would: nothing is compressed twice."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in static_files(describe(DEMO_MODEL), None, "---\nlicense: mit\n---\n").items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with served(Path(folder)) as (address, _):
            yield address


def weigh(browser: sync_api.Browser, address: str, view: View) -> dict[str, float]:
    """Open a view without a cache. Bytes over the wire, requests, seconds, and how far things moved (CLS)."""
    context = browser.new_context(viewport={"width": 1366, "height": 650})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(SHIFTS)
    wire = {"bytes": 0, "requests": 0, "last": time.monotonic()}

    def received(size_bytes: float) -> None:
        wire["bytes"] += int(size_bytes)
        wire["last"] = time.monotonic()

    def asked(_: Any) -> None:
        wire["requests"] += 1
        wire["last"] = time.monotonic()

    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.requestWillBeSent", asked)
    network.on("Network.loadingFinished", lambda event: received(event["encodedDataLength"]))
    network.on("Network.webSocketFrameReceived", lambda event: received(_frame_bytes(event["response"])))
    started = time.monotonic()
    page.goto(address + view.path)
    page.locator(view.verdict).first.wait_for()
    verdict_s = time.monotonic() - started
    page.locator(view.chart).first.wait_for()
    chart_s = time.monotonic() - started
    while time.monotonic() - wire["last"] < QUIET_S:
        page.wait_for_timeout(200)
    shift = page.evaluate("window.shift")
    context.close()
    seconds = {"verdict_s": round(verdict_s, 2), "chart_s": round(chart_s, 2)}
    return {"bytes": wire["bytes"], "requests": wire["requests"], **seconds, "layout_shift": round(shift, 4)}


def _frame_bytes(frame: Mapping[str, Any]) -> float:
    """Return the bytes of a websocket's frame; those of a binary one come in base 64."""
    return len(frame["payloadData"]) * (3 / 4 if frame["opcode"] == 2 else 1)


def weigh_all(out: Path | None) -> int:
    """Weigh every first load, print them as a table and as JSON; 1 if one is above `MAX_BYTES`."""
    weights: dict[str, dict[str, float]] = {}
    with chromium() as browser:
        with product() as address:
            weights |= {"page": weigh(browser, address, PAGE), "dashboard": weigh(browser, address, OVERVIEW)}
        with static_page() as address:
            weights["static page"] = weigh(browser, address, STATIC)
    print(f"{'first load':<12} {'MB':>6} {'requests':>9} {'verdict, s':>11} {'charts, s':>10} {'layout shift':>13}")
    for name, of in weights.items():
        print(
            f"{name:<12} {of['bytes'] / 1e6:>6.2f} {of['requests']:>9} {of['verdict_s']:>11.1f} {of['chart_s']:>10.1f} "
            f"{of['layout_shift']:>13.3f}"
        )
    text = json.dumps(weights, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    return int(any(weights[name]["bytes"] > MAX_BYTES for name in ("page", "dashboard")))


def pictures(folder: Path) -> int:
    """Renew page.png, dashboard.png and static.png."""
    with chromium() as browser, ExitStack() as stack:
        address = stack.enter_context(product())
        views = {"page": (address, PAGE), "dashboard": (address, OVERVIEW)}
        views["static"] = stack.enter_context(static_page()), STATIC
        for name, (start, view) in views.items():
            page = browser.new_page(viewport={"width": 1366, "height": 860}, color_scheme="light")
            page.set_default_timeout(PATIENCE_MS)
            for _ in range(2):  # the first visitor sees the times of a runtime's first pass
                page.goto(start + view.path)
                page.locator(view.chart).first.wait_for()
                page.wait_for_timeout(4_000)  # what comes last
            page.screenshot(path=folder / f"{name}.png", animations="disabled", caret="hide")
            page.close()
            print(f"{folder / name}.png: {(folder / name).with_suffix('.png').stat().st_size / 1e3:.0f} kB")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["weigh", "pictures"])
    parser.add_argument("--out", type=Path, help="a file for the weights, or the folder of the pictures")
    args = parser.parse_args()
    return weigh_all(args.out) if args.job == "weigh" else pictures(args.out or ROOT / "assets")


if __name__ == "__main__":
    sys.exit(main())
