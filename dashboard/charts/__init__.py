"""Charts as pure functions: a receipt goes in, a `look.Chart` comes out. No Streamlit here."""
