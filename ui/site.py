"""The page as an ASGI application for the public: Gradio's settings, its gate, and a queue that takes turns.

Nothing here makes a browser fetch anything from another machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError
from starlette.routing import Mount

from inference.api.html import CompletedPages
from inference.api.middleware import BodyLimit
from inference.api.packing import PackedFiles
from inference.backends import RUNTIMES
from ui.files import MAX_UPLOAD_MB, TemporaryFiles
from ui.gate import PageGate
from ui.look import SCRIPTS, look, read, tokens
from ui.render import head
from ui.waiting import FairQueue

MAX_REQUEST_BYTES = 8_000_000  # above `MAX_UPLOAD_MB`; the API takes less: `inference.api.ApiLimits`
MAX_SESSIONS = 100  # Gradio keeps some 150 KB of each, and makes one for every question that names none
# Gradio makes functions of the strings of JavaScript in its configuration, and writes that into its page.
CONTENT = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
# Only greys: colour is left to the runtimes. The fonts are the reader's own. The values are in tokens.css.
_TOKENS = {
    "body_text_color": "ink",
    "body_text_color_subdued": "soft",
    "background_fill_primary": "paper",
    "background_fill_secondary": "box",
    "block_background_fill": "raised",
    "input_background_fill": "raised",
    "border_color_primary": "line",
    "button_primary_background_fill": "strong",
    "button_primary_background_fill_hover": "strong-hover",
    "button_primary_text_color": "on-strong",
    "checkbox_border_color": "edge",
    "stat_background_fill": "edge",
}
THEME = gr.themes.Default(
    primary_hue="slate", secondary_hue="slate", neutral_hue="slate", font="var(--sans)", font_mono="var(--mono)"
).set(**{f"{name}{mode}": f"var(--{token})" for name, token in _TOKENS.items() for mode in ("", "_dark")})


async def _no_such_endpoint(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "No such endpoint. There are /predict, /compare and /explain."}, 404)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    # FastAPI's own answer repeats the input, and fails with 500 if that is NaN or half a character.
    return JSONResponse({"detail": "The request is not the JSON that this address takes."}, 400)


def _css() -> str:
    """The common look and the page's own, with the sign of each runtime where one is chosen."""
    rules = [tokens(), look(), read("page.css"), read("what_if.css")]
    for name, runtime in RUNTIMES.items():
        choice = f'#runtime label:has(input[value="{name}"]) span::before'
        rules.append(f'{choice} {{ content: "{runtime.glyph} "; color: var(--{name}); }}')
    return "\n".join(rules)


# What Gradio would put below its own classes, if it were in page.css. Until the page is drawn, it shows nothing that
# what comes would push down.
EARLY = """
.gradio-container { width: 100% !important; max-width: 1160px !important; margin: 0 auto !important; }
.gradio-container > .main.app { padding: .5rem 1.25rem 1rem !important; } /* as the head */
.gradio-container .contain > .column { gap: .5rem; }
@media (max-width: 640px) { .gradio-container > .main.app { padding-inline: .9rem !important; } }
.gradio-container:has(p.loading) :is(main, footer), .gradio-container:not(:has(main)) footer { visibility: hidden; }
#text textarea { field-sizing: content; } /* as high as its text from the start */
"""
HEAD = '<meta name="description" content="One text classifier on several runtimes, side by side">'
# One module, so that its files need no addresses to import each other.
_PARTS = map(read, (*SCRIPTS, "share.js", "history.js", "what_if.js", "scored.js"))
SCRIPT = re.sub(r'^import \{.*\} from ".*";\n', "", "".join(_PARTS), flags=re.MULTILINE)
# For `gr.mount_gradio_app`.
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": _css(),
    "head": f'{HEAD}<script>{read("check_address.js")}</script><script type="module">{SCRIPT}</script>',
    "footer_links": ["api", "settings"],
    "run_history": False,  # on by default, it keeps what people typed
    "enable_monitoring": False,  # on by default, and open to everybody
    "ssr_mode": False,
    "mcp_server": False,
    "show_error": False,
    "allowed_paths": [],
    "max_file_size": f"{MAX_UPLOAD_MB}mb",  # the browser checks it before it sends a file
    "app_kwargs": {
        # Gradio turns these into a 500: an unknown name, an unknown fn_index, and a body of another shape.
        "exception_handlers": {
            FnIndexInferError: _no_such_endpoint,
            KeyError: _no_such_endpoint,
            RequestValidationError: _malformed,
        },
    },
}


def _with_head(links: Mapping[str, str], page: str) -> str:
    """Return Gradio's page with what it draws only later: its colours, its width and the head."""
    early = f"<style>{tokens()}{look()}{EARLY}</style>{head('Try', links, 'h1')}"
    return page.replace("<gradio-app", f"{early}<gradio-app", 1)


def mount_page(site: FastAPI, page: gr.Blocks, files: TemporaryFiles, links: Mapping[str, str] | None = None) -> Any:
    """Mount the page on every path that the application does not serve itself; returns Gradio's own application.

    Args:
        files: made before the page, because Gradio's components note where uploads lie when they are made.
        links: the places to go, for `head`; only the page itself without them.
    """
    page._queue = queue = FairQueue(page)
    page.state_session_capacity = MAX_SESSIONS
    # Gradio checks which files a request may name only after a launch, which a mounted page never has.
    page.has_launched = True
    page.space_id = None  # on a Space, the page would get the Hub's header, which fetches fonts from other machines
    site.add_middleware(BodyLimit, max_bytes=MAX_REQUEST_BYTES)
    gr.mount_gradio_app(site, page, path="/", **LAUNCH)
    mount = cast(Mount, site.routes[-1])
    inner = mount.app
    gate = PackedFiles(PageGate(inner, page, queue, files), ("assets",))
    mount.app = CompletedPages(gate, re.compile("/"), partial(_with_head, links or {"Try": "./"}))
    return inner
