"""The dashboard: which of the three runtimes to ship, from receipts of measurements.

Run it: python -m streamlit run dashboard/main.py

Streamlit imports this file for `app`, the server, and then runs it as a script, for every visitor.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

# `streamlit run` puts this file's folder first on the path, not the project's: without this, `import inference` fails.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import streamlit as st  # noqa: E402
from streamlit.web.server.server_util import get_display_address, get_url  # noqa: E402

from dashboard import state  # noqa: E402
from dashboard.origin import MIDDLEWARE  # noqa: E402


def draw() -> None:
    """Draw the frame of every page, and the page that the address names."""
    st.set_page_config(page_title="Triptych: compare", page_icon="⚖️", layout="wide")
    # Streamlit leaves wide margins that three charts side by side have better use for; its figures are larger still.
    st.html(
        "<style>.stMainBlockContainer { padding: 4.5rem clamp(1rem, 3vw, 3rem) 4rem; max-width: 1500px; }"
        "[data-testid=stCaptionContainer] { opacity: .8; }"  # at its .6, words are hard to read on both backgrounds
        # Its own download writes cells that a spreadsheet would run as formulas.
        '[data-testid=stDataFrame] button[aria-label="Download as CSV"] { display: none; }'
        "[data-testid=stMetricValue] { font-size: 1.35rem; font-variant-numeric: tabular-nums; }</style>"
    )
    # The files of the pages are in views/: Streamlit takes a folder called pages/ for its old kind of navigation until
    # the first visitor has been to the entry page, and until then would run a page alone, without this file.
    page = st.navigation(
        [
            st.Page("views/overview.py", title="Overview", default=True),
            st.Page("views/latency.py", title="Latency"),
            st.Page("views/size.py", title="Size & memory"),
            st.Page("views/accuracy.py", title="Accuracy"),
            st.Page("views/disagreements.py", title="Disagreements"),
            st.Page("views/your_data.py", title="Your data"),
            st.Page("views/method.py", title="Method"),
        ],
        position="top",
    )
    st.sidebar.header("Triptych", anchor=False)
    if address := os.environ.get("TRIPTYCH_PAGE_URL"):
        # As HTML: a link in Streamlit's markdown opens a second window.
        st.sidebar.html(f'<a href="{escape(address)}" target="_self" style="color:inherit">← Try the classifier</a>')
    state.choose()
    page.run()


@asynccontextmanager
async def announce(_: object) -> AsyncIterator[None]:
    """Print the address. Streamlit's own lines are switched off: for them it looks up the machine's external one."""
    address = get_display_address(st.get_option("server.address") or "localhost")
    print(f"The dashboard is at {get_url(address)}", flush=True)
    yield


if __name__ == "__main__":
    draw()
else:
    app = st.App(__file__, middleware=MIDDLEWARE, lifespan=announce)
