"""The dashboard: which of the three runtimes to ship, from measurements.

Run it: python -m streamlit run dashboard/main.py

Streamlit imports this file for the server `app`, and then runs it as a script for every visitor.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# `streamlit run` puts this file's folder first on the path, not the project's: without this, `import inference` fails.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import streamlit as st  # noqa: E402
from streamlit.web.server.server_util import get_display_address, get_url  # noqa: E402

from dashboard import receipts, state  # noqa: E402
from dashboard.origin import MIDDLEWARE  # noqa: E402


def draw() -> None:
    """Draw the frame of every page and the page that the address names."""
    st.set_page_config(page_title="Triptych: compare", page_icon="⚖️", layout="wide")
    # The pages are in views/ because Streamlit takes a folder named pages/ for its old kind of navigation: until the
    # first visitor has opened the entry page, it would run a page alone, without this file.
    pages = [
        st.Page("views/overview.py", title="Overview", default=True),
        st.Page("views/leaderboard.py", title="Leaderboard"),
        st.Page("views/latency.py", title="Latency"),
        st.Page("views/size.py", title="Size"),
        st.Page("views/accuracy.py", title="Accuracy"),
        st.Page("views/disagreements.py", title="Disagreements"),
        st.Page("views/your_data.py", title="Your data"),
        st.Page("views/method.py", title="Method"),
    ]
    page = st.navigation(pages, position="top")
    # On a phone Streamlit hides its navigation behind a button; frame.html shows these links there, and only there.
    with st.container(horizontal=True, gap="xxsmall", key="phone_pages"):
        for link in pages:
            st.page_link(link)
    state.select()
    page.run()


@asynccontextmanager
async def announce(_: object) -> AsyncIterator[None]:
    """Print the address. Streamlit's own message is off, because for it Streamlit looks up the external address."""
    address = get_display_address(st.get_option("server.address") or "localhost")
    print(f"The dashboard is at {get_url(address)}", flush=True)
    receipts.check_in_background()
    yield


if __name__ == "__main__":
    draw()
else:
    app = st.App(__file__, middleware=MIDDLEWARE, lifespan=announce)
