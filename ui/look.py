"""Theme, style sheet and the one piece of JavaScript of the page. Nothing in it is fetched from anywhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

# Greys only: colour is left to the three runtimes. Fonts are the reader's own: Gradio's come from a server.
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
    stat_background_fill="*neutral_500",
    stat_background_fill_dark="*neutral_400",
)

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")

# On a phone the answer is below the screen's edge, and Gradio's own scroll_to_output leaves it there.
SHOW_ANSWER = """() => {
  const top = document.getElementById("message").getBoundingClientRect().top;
  if (top > window.innerHeight - 160) window.scrollBy(0, top - 16);
}"""
