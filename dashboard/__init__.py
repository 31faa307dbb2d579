"""The Streamlit dashboard. It draws measurements and needs none of the runtimes.

receipts (list, load) → charts (receipt → figure, pure) → components (figure → page) → views ← main (navigation)
"""
