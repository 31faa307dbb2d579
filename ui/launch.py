"""How the page is served: its look, what is switched off, and how malformed requests are refused.

Nothing in it makes a browser fetch anything from another machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from gradio.route_utils import FnIndexInferError

# Greys only: colour is left to the three runtimes. Fonts are the reader's own.
THEME = gr.themes.Default(
    primary_hue="slate",
    secondary_hue="slate",
    neutral_hue="slate",
    font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
).set(
    button_primary_background_fill="*neutral_800",
    button_primary_background_fill_hover="*neutral_700",
    button_primary_background_fill_dark="*neutral_200",
    button_primary_background_fill_hover_dark="*neutral_100",
    button_primary_text_color_dark="*neutral_900",
    body_text_color_subdued="*neutral_600",  # the theme's own grey is hard to read on white
    checkbox_border_color="*neutral_500",  # as are the borders of what is not chosen
    checkbox_border_color_dark="*neutral_400",
    stat_background_fill="*neutral_500",
    stat_background_fill_dark="*neutral_400",
)

MOST_MB = 5  # of an upload

# Who asks while the tab for files is open, is shown the first tab, where the answer is.
# Where the answer begins below the screen's edge the page moves until much of it is seen, and no further: Gradio's own
# scroll_to_output would leave it there. Where it begins above, it comes to the top.
SHOW_ANSWER = """async () => {
  const open = document.querySelector('button[role="tab"][aria-selected="true"]');
  if (open && open.textContent.trim() === "Score a file") document.querySelector('button[role="tab"]').click();
  await new Promise((drawn) => setTimeout(drawn, 100));
  const why = document.querySelector("#why .why");
  const { top } = (why?.offsetParent ? why : document.getElementById("message")).getBoundingClientRect();
  const seen = window.visualViewport?.height ?? window.innerHeight; // what the keyboard of a phone leaves
  const by = top < 0 ? top - 16 : Math.min(top - 16, top + 320 - seen);
  if (top < 0 || by > 0) window.scrollBy(0, by);
}"""


async def _no_such_endpoint(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "No such endpoint. There are /predict, /compare and /explain."}, 404)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    # FastAPI's own answer repeats the input, and fails with 500 where that is NaN or half a character.
    return JSONResponse({"detail": "The request is not the JSON that this address takes."}, 400)


# For `gr.mount_gradio_app`: see `ui/site.py`.
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
    "head": '<meta name="description" content="One text classifier on three runtimes, side by side">',
    "footer_links": ["api", "settings"],
    "run_history": False,  # on by default, it keeps what people typed
    "enable_monitoring": False,  # on by default, and open to everybody
    "ssr_mode": False,
    "mcp_server": False,
    "show_error": False,
    "allowed_paths": [],
    "max_file_size": f"{MOST_MB}mb",  # of a file to be scored; the browser looks at it before it sends one
    "app_kwargs": {
        # Gradio leaves these to become a 500: an unknown name, an unknown fn_index, and a body that is none of its own.
        "exception_handlers": {
            FnIndexInferError: _no_such_endpoint,
            KeyError: _no_such_endpoint,
            RequestValidationError: _malformed,
        },
    },
}
